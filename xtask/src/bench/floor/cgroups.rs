//! A round's cgroups: one `mkdir` and one `rmdir` in each hierarchy, and what v1's cpuset and v2's controllers need.

use anyhow::{Context, Result};
use podbox_cgroup::{Cgroup, CgroupPath, Hierarchies};
use std::fs;
use std::path::{Path, PathBuf};

const CPUSET: [&str; 2] = ["cpuset.cpus", "cpuset.mems"];
const CONTROLLERS: &str = "cgroup.subtree_control";

/// Of the names of benches' cgroups; what follows is the process.
pub(super) const PREFIX: &str = "podbox-floor-";

/// Removes the cgroups of benches that were killed: the process of the name is gone. What they had started went with them, so that one with
/// a process in it is somebody else's, and stays. They stand beside this one's.
pub(super) fn remove_abandoned(host: &Hierarchies, own: &CgroupPath) -> Result<()> {
    let own = Cgroup::at(host, own).entry();
    for root in own.v1.iter().chain(&own.unified).filter_map(|directory| directory.parent()) {
        for entry in fs::read_dir(root).with_context(|| format!("list {}", root.display()))? {
            let name = entry.with_context(|| format!("list {}", root.display()))?.file_name();
            let Some(process) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)).and_then(|id| id.parse::<u32>().ok()) else {
                continue;
            };
            if !Path::new(&format!("/proc/{process}")).exists() {
                let cgroup = Cgroup::at(host, &CgroupPath::new(format!("/{PREFIX}{process}"))?);
                let _is_somebody_elses = cgroup.remove();
            }
        }
    }
    Ok(())
}

/// The bench's directory in each hierarchy, with what is read from them once.
pub(super) struct Directories {
    unified: Option<PathBuf>,
    v1: Vec<PathBuf>,
    cpuset: Option<Cpuset>,
    /// For a pod's `cgroup.subtree_control`; empty on hybrid hosts.
    controllers: String,
}

/// What a new v1 cpuset lacks until it is told.
struct Cpuset {
    /// Its position among the v1 directories.
    at: usize,
    content: [String; CPUSET.len()],
}

/// A pod's or a container's directories.
pub(super) struct RoundCgroup<'a> {
    host: &'a Directories,
    unified: Option<PathBuf>,
    v1: Vec<PathBuf>,
}

impl Directories {
    /// Of the cgroup at `path`, which exists.
    pub(super) fn below(host: &Hierarchies, path: &CgroupPath) -> Result<Self> {
        let entry = Cgroup::at(host, path).entry();
        let cpuset = match entry.v1.iter().position(|directory| directory.join(CPUSET[0]).exists()) {
            Some(at) => {
                let [cpus, mems] = CPUSET.map(|name| read(&entry.v1[at].join(name)));
                Some(Cpuset { at, content: [cpus?, mems?] })
            }
            None => None,
        };
        let mut controllers = String::new();
        if let Some(unified) = &entry.unified {
            let available = read(&unified.join("cgroup.controllers"))?;
            controllers = available.split_whitespace().map(|controller| format!("+{controller} ")).collect();
            if !controllers.is_empty() {
                write(&unified.join(CONTROLLERS), &controllers)?;
            }
        }
        Ok(Self { unified: entry.unified, v1: entry.v1, cpuset, controllers })
    }

    /// Makes a pod's cgroup, whose children get the controllers.
    pub(super) fn pod(&self, name: &str) -> Result<RoundCgroup<'_>> {
        let pod = self.make(self.unified.as_ref(), &self.v1, name)?;
        if let Some(unified) = pod.unified.as_ref().filter(|_| !self.controllers.is_empty()) {
            write(&unified.join(CONTROLLERS), &self.controllers)?;
        }
        Ok(pod)
    }

    fn make(&self, unified: Option<&PathBuf>, v1: &[PathBuf], name: &str) -> Result<RoundCgroup<'_>> {
        let v1: Vec<PathBuf> = v1.iter().map(|parent| parent.join(name)).collect();
        let unified = unified.map(|parent| parent.join(name));
        for directory in v1.iter().chain(&unified) {
            fs::create_dir(directory).with_context(|| format!("make {}", directory.display()))?;
        }
        if let Some(cpuset) = &self.cpuset {
            for (file, content) in CPUSET.iter().zip(&cpuset.content) {
                write(&v1[cpuset.at].join(file), content)?;
            }
        }
        Ok(RoundCgroup { host: self, unified, v1 })
    }
}

impl<'a> RoundCgroup<'a> {
    /// Makes a cgroup below this one.
    pub(super) fn container(&self, name: &str) -> Result<RoundCgroup<'a>> {
        self.host.make(self.unified.as_ref(), &self.v1, name)
    }

    /// To be born in.
    pub(super) fn unified(&self) -> Option<&Path> {
        self.unified.as_deref()
    }

    /// To be joined.
    pub(super) fn v1(&self) -> &[PathBuf] {
        &self.v1
    }

    pub(super) fn remove(self) -> Result<()> {
        for directory in self.v1.iter().chain(&self.unified) {
            fs::remove_dir(directory).with_context(|| format!("remove {}", directory.display()))?;
        }
        Ok(())
    }
}

fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("read {}", file.display()))
}

pub(super) fn write(file: &Path, value: &str) -> Result<()> {
    use std::io::Write;
    let open = fs::OpenOptions::new().write(true).open(file);
    open.and_then(|mut open| open.write_all(value.as_bytes())).with_context(|| format!("write `{value}` to {}", file.display()))
}
