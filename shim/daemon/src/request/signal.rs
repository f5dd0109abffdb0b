//! Signals by name, with the kernel's numbers (`signal(7)`; x86-64 and arm64 have the same).

const NAMES: [(&str, i32); 34] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
];

/// `SIGKILL`
pub const KILL: i32 = 9;

/// The first real-time signal that programs can use: the C library keeps 32 and 33.
const RT_MIN: i32 = 34;
const RT_MAX: i32 = 64;

/// The number of a signal: `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`, `SIGRTMAX-1`, and the CRI's `SIGRTMINPLUS3`.
#[must_use]
pub fn signal_number(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=RT_MAX).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, number)) = NAMES.iter().find(|(known, _)| *known == name) {
        return Some(*number);
    }
    let (base, offset) = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(rest), _) => (RT_MIN, rest),
        (_, Some(rest)) => (RT_MAX, rest),
        _ => return None,
    };
    let offset = offset.replace("PLUS", "+").replace("MINUS", "-");
    let offset = if offset.is_empty() { 0 } else { offset.parse::<i32>().ok()? };
    Some(base + offset).filter(|number| (RT_MIN..=RT_MAX).contains(number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use podbox_proto::v1::Signal;

    #[test]
    fn every_signal_of_the_cri_has_a_number() {
        for number in 1..=65 {
            let Ok(signal) = Signal::try_from(number) else { continue };
            let name = signal.as_str_name().trim_start_matches("SIGNAL_");
            assert!(signal_number(name).is_some(), "{name}");
        }
        assert_eq!(Signal::try_from(65).map(|s| s.as_str_name()), Ok("SIGNAL_SIGRTMAX"));
    }

    #[test]
    fn images_spell_signals_in_several_ways() {
        for (text, number) in [("SIGTERM", 15), ("term", 15), ("9", 9), ("SIGRTMIN+3", 37), ("RTMAX-2", 62), ("SIGRTMIN", 34)] {
            assert_eq!(signal_number(text), Some(number), "{text}");
        }
        for text in ["", "SIG", "0", "65", "-1", "SIGRTMIN+99", "SIGNONE"] {
            assert_eq!(signal_number(text), None, "{text}");
        }
    }
}
