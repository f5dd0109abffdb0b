//! Pressure stall information (the kernel's `accounting/psi`): kept by the unified hierarchy, with or without controllers.

/// Time lost for want of each resource; `None` where the kernel does not count it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressures {
    /// CPU.
    pub cpu: Option<Pressure>,
    /// Memory.
    pub memory: Option<Pressure>,
    /// Block I/O.
    pub io: Option<Pressure>,
}

/// Time lost for want of one resource.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressure {
    /// Some tasks had to wait.
    pub some: Stall,
    /// All that had work had to wait. Older kernels do not tell it of the CPU.
    pub full: Option<Stall>,
}

/// How much was lost.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Stall {
    /// Per cent of the last 10 s.
    pub percent_10s: f64,
    /// Per cent of the last minute.
    pub percent_60s: f64,
    /// Per cent of the last 5 min.
    pub percent_300s: f64,
    /// In all, in microseconds.
    pub total_us: u64,
}

/// A pressure file: a line `some`, and perhaps a line `full`.
pub(super) fn parse(text: &str) -> Option<Pressure> {
    let line = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let full = match line("full") {
        Some(values) => Some(stall(values)?),
        None => None,
    };
    Some(Pressure { some: stall(line("some")?)?, full })
}

fn stall(values: &str) -> Option<Stall> {
    let value = |name: &str| values.split_ascii_whitespace().find_map(|value| value.strip_prefix(name)?.strip_prefix('='));
    Some(Stall {
        percent_10s: value("avg10")?.parse().ok()?,
        percent_60s: value("avg60")?.parse().ok()?,
        percent_300s: value("avg300")?.parse().ok()?,
        total_us: value("total")?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_lines_are_told_apart_and_the_second_may_be_missing() {
        let text = "some avg10=7.06 avg60=15.77 avg300=24.09 total=2698\nfull avg10=0.00 avg60=0.50 avg300=0.00 total=3\n";
        let pressure = parse(text).expect("pressure");
        assert_eq!(pressure.some, Stall { percent_10s: 7.06, percent_60s: 15.77, percent_300s: 24.09, total_us: 2698 });
        assert_eq!(pressure.full.map(|full| (full.percent_60s, full.total_us)), Some((0.5, 3)));
        let alone = text.lines().next().expect("a line");
        assert_eq!(parse(alone).expect("pressure").full, None);
        assert_eq!(parse("full avg10=0"), None);
        assert_eq!(parse(""), None);
    }
}
