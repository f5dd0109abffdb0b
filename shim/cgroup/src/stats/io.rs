//! Block I/O by device.

use std::collections::BTreeMap;

/// What went to and from one block device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceIo {
    /// The device's number.
    pub major: u32,
    /// The device's number.
    pub minor: u32,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Bytes discarded.
    pub discarded_bytes: u64,
    /// Requests that read.
    pub reads: u64,
    /// Requests that wrote.
    pub writes: u64,
    /// Requests that discarded.
    pub discards: u64,
}

impl DeviceIo {
    /// What its node in `/dev` is called, as the kernel knows it; `None` once it is gone.
    #[must_use]
    pub fn device_name(&self) -> Option<String> {
        let link = std::fs::read_link(format!("/sys/dev/block/{}:{}", self.major, self.minor)).ok()?;
        // The kernel writes `!` for the slashes of names such as `cciss/c0d0`.
        Some(link.file_name()?.to_str()?.replace('!', "/"))
    }
}

/// By device, in the order of their numbers.
pub(super) type Devices = BTreeMap<(u32, u32), DeviceIo>;

fn device<'d>(devices: &'d mut Devices, number: &str) -> Option<&'d mut DeviceIo> {
    let (major, minor) = number.split_once(':')?;
    let (major, minor) = (major.parse().ok()?, minor.parse().ok()?);
    Some(devices.entry((major, minor)).or_insert_with(|| DeviceIo { major, minor, ..DeviceIo::default() }))
}

/// v2's `io.stat`: `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6`, a line a device. A device that does not count is
/// listed by its number alone.
pub(super) fn add_v2(devices: &mut Devices, text: &str) {
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let Some(io) = words.next().and_then(|number| device(devices, number)) else { continue };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let Ok(value) = value.parse::<u64>() else { continue };
            match key {
                "rbytes" => io.read_bytes = value,
                "wbytes" => io.written_bytes = value,
                "dbytes" => io.discarded_bytes = value,
                "rios" => io.reads = value,
                "wios" => io.writes = value,
                "dios" => io.discards = value,
                _ => {}
            }
        }
    }
}

/// v1's `blkio.throttle.io_service_bytes_recursive` or, with `requests`, `…io_serviced_recursive`: `8:0 Read 1`, a line each.
pub(super) fn add_v1(devices: &mut Devices, text: &str, requests: bool) {
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(number), Some(operation), Some(value)) = (words.next(), words.next(), words.next()) else { continue };
        let (Ok(value), Some(io)) = (value.parse::<u64>(), device(devices, number)) else { continue };
        match (operation, requests) {
            ("Read", false) => io.read_bytes = value,
            ("Write", false) => io.written_bytes = value,
            ("Discard", false) => io.discarded_bytes = value,
            ("Read", true) => io.reads = value,
            ("Write", true) => io.writes = value,
            ("Discard", true) => io.discards = value,
            // Sums of the others.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kernels_lists_say_the_same() {
        let (mut v1, mut v2) = (Devices::new(), Devices::new());
        add_v2(&mut v2, "8:16 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=5 dios=3\n7:0 \n");
        add_v1(&mut v1, "8:16 Read 10\n8:16 Write 20\n8:16 Sync 30\n8:16 Async 0\n8:16 Discard 5\n8:16 Total 35\nTotal 35\n", false);
        add_v1(&mut v1, "8:16 Read 1\n8:16 Write 2\n8:16 Discard 3\n8:16 Total 6\n7:0 Read 0\nTotal 6\n", true);
        assert_eq!(v1, v2);
        assert_eq!(v2.keys().copied().collect::<Vec<_>>(), [(7, 0), (8, 16)]);
        let wanted =
            DeviceIo { major: 8, minor: 16, read_bytes: 10, written_bytes: 20, discarded_bytes: 5, reads: 1, writes: 2, discards: 3 };
        assert_eq!(v2[&(8, 16)], wanted);
    }
}
