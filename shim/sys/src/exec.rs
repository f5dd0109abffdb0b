//! Where another process is in its `execve(2)`.

use rustix::process::Pid;

/// `PF_FORKNOEXEC`: forked, and nothing executed since.
const NOT_EXECUTED: u64 = 0x40;
/// Places in `/proc/PID/stat` (proc_pid_stat(5)), counted from what follows the name.
const STATE: usize = 0;
const FLAGS: usize = 6;
const START_OF_CODE: usize = 23;

/// Whether a process that was forked to execute a program has done so, and has the credentials and labels that come with it.
///
/// Files that are closed on the way do not tell: the kernel closes them first, then exchanges the memory, takes the new credentials on, and
/// then loads the program, of which it is known where its code begins from there on. What has ended is over, whatever it came to, and so is
/// what is gone. The caller may look at the process as `ptrace(2)` demands it for reading.
#[must_use]
pub fn exec_is_over(pid: Pid) -> bool {
    std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).map_or(true, |stat| is_over(&stat))
}

fn is_over(stat: &str) -> bool {
    let Some((_, rest)) = stat.rsplit_once(") ") else { return true };
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok());
    let has_ended = fields.get(STATE).is_none_or(|state| ["Z", "X"].contains(state));
    let (Some(flags), Some(start_of_code)) = (number(FLAGS), number(START_OF_CODE)) else { return true };
    has_ended || (flags & NOT_EXECUTED == 0 && start_of_code != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the kernel writes it, of a process that was caught on its way and of what it became.
    #[test]
    fn only_a_program_that_is_loaded_or_has_ended_is_over() {
        let stat = |name: &str, state: char, flags: u64, start: u64| {
            format!(
                "20240 ({name}) {state} 155 0 0 0 -1 {flags} 41 0 0 0 0 0 0 0 20 0 1 0 20771 428212224 1455 18446744073709551615 {start} 0 0"
            )
        };
        for (text, over) in [
            (stat("monitor", 'R', 0x0040_0140, 93_974_573_819_936), false),
            (stat("busybox", 'R', 0x0040_0100, 0), false),
            (stat("busybox", 'R', 0x0040_0100, 4_198_400), true),
            (stat("a ) Z 1", 'R', 0x0040_0140, 4_198_400), false),
            (stat("busybox", 'Z', 0x0040_0100, 0), true),
            (stat("monitor", 'Z', 0x0040_0140, 0), true),
            (String::new(), true),
        ] {
            assert_eq!(is_over(&text), over, "{text}");
        }
    }
}
