//! What is asked often, over files that stay open.

use super::text::{Buffer, OpenFile, keyed_lines};
use super::{MemoryUsage, Pressure, Pressures, SwapUsage, Usage, V1_UNLIMITED, pressure};
use crate::hierarchies::Home;
use crate::{Cgroup, Controller, Error};
use std::path::Path;

/// A cgroup's counters, opened once and read as often as one likes. It may outlive the cgroup: then it reads nothing.
#[derive(Debug)]
pub struct Meter {
    cpu: Option<CpuFile>,
    memory: Option<MemoryFiles>,
    tasks: Option<OpenFile>,
    pressures: [Option<OpenFile>; 3],
}

#[derive(Debug)]
enum CpuFile {
    V1 { usage: OpenFile },
    V2 { stat: OpenFile },
}

#[derive(Debug)]
enum MemoryFiles {
    V1 { usage: OpenFile, stat: OpenFile },
    V2 { current: OpenFile, stat: OpenFile, max: Option<OpenFile>, swap: Option<[OpenFile; 2]> },
}

impl Meter {
    /// Opens what this kernel has of a cgroup's counters. One that does not exist has none.
    ///
    /// # Errors
    /// There are no descriptors left, or a file cannot be opened for another reason than its absence.
    pub fn open(cgroup: &Cgroup) -> Result<Self, Error> {
        let cpu = match cgroup.home(Controller::Cpuacct) {
            Some(Home::V1(directory)) => OpenFile::open(&directory, "cpuacct.usage")?.map(|usage| CpuFile::V1 { usage }),
            // The unified hierarchy counts time without any controller.
            _ => match cgroup.unified() {
                Some(directory) => OpenFile::open(&directory, "cpu.stat")?.map(|stat| CpuFile::V2 { stat }),
                None => None,
            },
        };
        let memory = match cgroup.home(Controller::Memory) {
            Some(Home::V1(directory)) => MemoryFiles::open_v1(&directory)?,
            Some(Home::V2(directory)) => MemoryFiles::open_v2(&directory)?,
            None => None,
        };
        let tasks = match cgroup.home(Controller::Pids) {
            Some(Home::V1(directory) | Home::V2(directory)) => OpenFile::open(&directory, "pids.current")?,
            None => None,
        };
        let unified = cgroup.unified();
        let open_pressure = |name| unified.as_deref().map_or(Ok(None), |directory| OpenFile::open(directory, name));
        let pressures = [open_pressure("cpu.pressure")?, open_pressure("memory.pressure")?, open_pressure("io.pressure")?];
        Ok(Self { cpu, memory, tasks, pressures })
    }

    /// How many descriptors it holds.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        let memory = match &self.memory {
            Some(MemoryFiles::V1 { .. }) => 2,
            Some(MemoryFiles::V2 { max, swap, .. }) => 2 + usize::from(max.is_some()) + 2 * usize::from(swap.is_some()),
            None => 0,
        };
        memory + usize::from(self.cpu.is_some()) + usize::from(self.tasks.is_some()) + self.pressures.iter().flatten().count()
    }

    /// Reads everything, opening nothing. `None`: the cgroup is gone, or never was.
    ///
    /// # Errors
    /// A file cannot be read for another reason than that, or does not hold what its documentation says.
    pub fn read(&self) -> Result<Option<Usage>, Error> {
        let buffer = &mut Buffer::default();
        let cpu_ns = match &self.cpu {
            Some(CpuFile::V1 { usage }) => usage.read_number(buffer)?,
            Some(CpuFile::V2 { stat }) => stat.parsed(buffer, usage_of_cpu_stat)?,
            None => None,
        };
        let memory = self.memory.as_ref().map_or(Ok(None), |files| files.read(buffer))?;
        let tasks = self.tasks.as_ref().map_or(Ok(None), |file| file.read_number(buffer))?;
        let mut pressure = |file: &Option<OpenFile>| -> Result<Option<Pressure>, Error> {
            file.as_ref().map_or(Ok(None), |file| file.parsed(buffer, pressure::parse))
        };
        let [cpu, memory_stalls, io] = &self.pressures;
        let pressures = Pressures { cpu: pressure(cpu)?, memory: pressure(memory_stalls)?, io: pressure(io)? };
        let (memory, swap) = memory.map_or((None, None), |(memory, swap)| (Some(memory), swap));
        let usage = Usage { cpu_ns, memory, swap, pressures, tasks };
        Ok((usage != Usage::default()).then_some(usage))
    }
}

fn usage_of_cpu_stat(text: &str) -> Option<u64> {
    keyed_lines(text).find(|(key, _)| *key == "usage_usec").map(|(_, microseconds)| microseconds.saturating_mul(1000))
}

impl MemoryFiles {
    fn open_v1(directory: &Path) -> Result<Option<Self>, Error> {
        let (usage, stat) = (OpenFile::open(directory, "memory.usage_in_bytes")?, OpenFile::open(directory, "memory.stat")?);
        Ok(usage.zip(stat).map(|(usage, stat)| Self::V1 { usage, stat }))
    }

    fn open_v2(directory: &Path) -> Result<Option<Self>, Error> {
        let (current, stat) = (OpenFile::open(directory, "memory.current")?, OpenFile::open(directory, "memory.stat")?);
        let max = OpenFile::open(directory, "memory.max")?;
        let swap = OpenFile::open(directory, "memory.swap.current")?.zip(OpenFile::open(directory, "memory.swap.max")?);
        Ok(current.zip(stat).map(|(current, stat)| Self::V2 { current, stat, max, swap: swap.map(Into::into) }))
    }

    fn read(&self, buffer: &mut Buffer) -> Result<Option<(MemoryUsage, Option<SwapUsage>)>, Error> {
        match self {
            Self::V1 { usage, stat } => {
                let Some(usage_bytes) = usage.read_number(buffer)? else { return Ok(None) };
                Ok(stat.read(buffer)?.map(|text| of_v1_stat(usage_bytes, text)))
            }
            Self::V2 { current, stat, max, swap } => {
                let Some(usage_bytes) = current.read_number(buffer)? else { return Ok(None) };
                let limit_bytes = max.as_ref().map_or(Ok(None), |max| max.read_limit(buffer))?.flatten();
                let swap = swap.as_ref().map_or(Ok(None), |[current, max]| read_swap(current, max, buffer))?;
                let memory = stat.read(buffer)?.map(|text| MemoryUsage { limit_bytes, ..of_v2_stat(usage_bytes, text) });
                Ok(memory.map(|memory| (memory, swap)))
            }
        }
    }
}

fn read_swap(current: &OpenFile, max: &OpenFile, buffer: &mut Buffer) -> Result<Option<SwapUsage>, Error> {
    let Some(usage_bytes) = current.read_number(buffer)? else { return Ok(None) };
    Ok(Some(SwapUsage { usage_bytes, limit_bytes: max.read_limit(buffer)?.flatten() }))
}

/// v1's `memory.stat`: the lines `total_…` count what is below as well. There are those of swap only where swap is accounted.
fn of_v1_stat(usage_bytes: u64, text: &str) -> (MemoryUsage, Option<SwapUsage>) {
    let mut memory = MemoryUsage { usage_bytes, ..MemoryUsage::default() };
    let (mut swap, mut both_limit) = (None, None);
    let limit = |bytes: u64| (bytes < V1_UNLIMITED).then_some(bytes);
    for (key, value) in keyed_lines(text) {
        match key {
            "total_inactive_file" => memory.inactive_file_bytes = value,
            "total_rss" => memory.rss_bytes = value,
            "total_cache" => memory.cache_bytes = value,
            "total_mapped_file" => memory.mapped_bytes = value,
            "total_pgfault" => memory.page_faults = value,
            "total_pgmajfault" => memory.major_page_faults = value,
            "hierarchical_memory_limit" => memory.limit_bytes = limit(value),
            "hierarchical_memsw_limit" => both_limit = limit(value),
            "total_swap" => swap = Some(value),
            _ => {}
        }
    }
    // What memory does not take of the sum is left for swap.
    let swap_limit = both_limit.map(|both| both.saturating_sub(memory.limit_bytes.unwrap_or(0)));
    (memory, swap.map(|usage_bytes| SwapUsage { usage_bytes, limit_bytes: swap_limit }))
}

/// v2's `memory.stat`, which counts what is below.
fn of_v2_stat(usage_bytes: u64, text: &str) -> MemoryUsage {
    let mut memory = MemoryUsage { usage_bytes, ..MemoryUsage::default() };
    for (key, value) in keyed_lines(text) {
        match key {
            "inactive_file" => memory.inactive_file_bytes = value,
            "anon" => memory.rss_bytes = value,
            "file" => memory.cache_bytes = value,
            "file_mapped" => memory.mapped_bytes = value,
            "pgfault" => memory.page_faults = value,
            "pgmajfault" => memory.major_page_faults = value,
            _ => {}
        }
    }
    memory
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_working_set_is_usage_less_inactive_file_and_never_below_nothing() {
        let text = "cache 1\ninactive_file 7\ntotal_cache 50\ntotal_rss 20\ntotal_mapped_file 4\ntotal_pgfault 9\ntotal_pgmajfault 2\n\
                    total_inactive_file 30\nhierarchical_memory_limit 100\nhierarchical_memsw_limit 160\ntotal_swap 3";
        let (memory, swap) = of_v1_stat(80, text);
        assert_eq!((memory.working_set_bytes(), memory.available_bytes()), (50, Some(50)));
        assert_eq!((memory.rss_bytes, memory.cache_bytes, memory.mapped_bytes), (20, 50, 4));
        assert_eq!((memory.page_faults, memory.major_page_faults), (9, 2));
        assert_eq!(swap.map(|swap| (swap.usage_bytes, swap.available_bytes())), Some((3, Some(57))));
        assert_eq!(of_v1_stat(10, text).0.working_set_bytes(), 0);
        let v2 = of_v2_stat(80, "anon 20\nfile 50\nfile_mapped 4\ninactive_file 30\npgfault 9\npgmajfault 2\n");
        assert_eq!(MemoryUsage { limit_bytes: Some(100), ..v2 }, memory);
    }

    #[test]
    fn no_limit_and_no_accounting_are_told_as_such() {
        let text = "hierarchical_memory_limit 9223372036854771712\nhierarchical_memsw_limit 9223372036854771712\ntotal_swap 0";
        let (memory, swap) = of_v1_stat(80, text);
        assert_eq!((memory.limit_bytes, memory.available_bytes()), (None, None));
        assert_eq!(swap, Some(SwapUsage { usage_bytes: 0, limit_bytes: None }));
        assert_eq!(of_v1_stat(80, "total_rss 1").1, None);
        assert_eq!(usage_of_cpu_stat("usage_usec 7\nuser_usec 3"), Some(7000));
        assert_eq!(usage_of_cpu_stat("nr_periods 0"), None);
    }
}
