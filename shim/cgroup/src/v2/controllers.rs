//! Which controllers a cgroup has is what its ancestors wrote to `cgroup.subtree_control`.

use crate::{Controller, Controllers, Error, control_file};
use std::path::Path;

const GIVEN: &str = "cgroup.subtree_control";
const HAD: &str = "cgroup.controllers";

/// Lets the children of `parent` have `wanted`. Most of the time they have: that costs one read. Otherwise the ancestors below
/// `root`, and `root`, are seen to first. What no container needs to be limited and measured as all are is given where it can be:
/// a limit that needs it elsewhere is refused by its name.
pub(super) fn give_to_children(root: &Path, parent: &Path, wanted: &Controllers) -> Result<(), Error> {
    let given = Controller::of_v2_list(&control_file::read(parent, GIVEN)?);
    let missing: Vec<Controller> = wanted.difference(&given).copied().collect();
    if missing.is_empty() {
        return Ok(());
    }
    if parent != root
        && let Some(grandparent) = parent.parent()
    {
        give_to_children(root, grandparent, wanted)?;
    }
    let (needed, welcome): (Vec<Controller>, Vec<Controller>) = missing.into_iter().partition(|controller| is_needed(*controller));
    if !needed.is_empty() {
        control_file::write(parent, GIVEN, &request(&needed)).map_err(|error| match error {
            Error::Write { value, source, .. } => Error::EnableControllers { cgroup: parent.to_owned(), controllers: value, source },
            other => other,
        })?;
    }
    for controller in welcome {
        let _ = control_file::write(parent, GIVEN, &request(&[controller]));
    }
    Ok(())
}

/// Whether a container without it would be another than it was asked to be, or could not be measured.
fn is_needed(controller: Controller) -> bool {
    matches!(controller, Controller::Cpu | Controller::Cpuset | Controller::Memory | Controller::Pids | Controller::BlockIo)
}

/// Whether the cgroup at `directory` was given a controller; also where that cannot be read, for whatever is done next tells why.
pub(crate) fn has(directory: &Path, controller: Controller) -> bool {
    control_file::read(directory, HAD).map_or(true, |list| Controller::of_v2_list(&list).contains(&controller))
}

fn request(controllers: &[Controller]) -> String {
    let names: Vec<String> = controllers.iter().filter_map(|controller| controller.v2_name()).map(|name| format!("+{name}")).collect();
    names.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
    use std::fs;
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::path::PathBuf;

    #[test]
    fn only_known_controllers_are_asked_for_and_by_their_v2_names() {
        let known = Controller::of_v2_list("cpuset cpu io memory hugetlb pids rdma misc");
        assert_eq!(known.len(), 6);
        assert_eq!(request(&known.into_iter().collect::<Vec<_>>()), "+cpu +cpuset +memory +pids +io +hugetlb");
    }

    /// Plain files in place of the kernel's: they show what is written where.
    struct Fixture(PathBuf);

    impl Fixture {
        fn new(name: &str, given: [&str; 3]) -> Self {
            let root = std::env::temp_dir().join(format!("podbox-cgroup-{name}-{}", std::process::id()));
            let mut directory = root.clone();
            for (level, given) in given.into_iter().enumerate() {
                if level > 0 {
                    directory.push(format!("level{level}"));
                }
                fs::create_dir(&directory).expect("fresh");
                fs::write(directory.join(GIVEN), given).expect("write");
            }
            Self(root)
        }

        fn given(&self, below: &str) -> String {
            fs::read_to_string(self.0.join(below).join(GIVEN)).expect("read")
        }
    }

    impl Drop for Fixture {
        fn drop(&mut self) {
            let _best_effort = fs::remove_dir_all(&self.0);
        }
    }

    /// A file of memory that was sealed is read as any, and refuses to be written to.
    fn sealed(content: &str) -> fs::File {
        let file = memfd_create(c"podbox-test", MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC).expect("memfd");
        let mut file = fs::File::from(file);
        file.write_all(content.as_bytes()).expect("write");
        fcntl_add_seals(&file, SealFlags::WRITE).expect("seal");
        file
    }

    #[test]
    fn a_controller_that_nobody_asked_for_and_that_is_not_to_be_had_is_done_without() {
        let tree = Fixture::new("without", ["cpu cpuset io memory pids hugetlb", "", ""]);
        let level = tree.0.join("level1");
        let wanted = Controller::of_v2_list("cpu cpuset io memory pids hugetlb");
        for (given, is_enough) in [("cpu cpuset io memory pids", true), ("cpu cpuset memory pids hugetlb", false)] {
            let refuses = sealed(given);
            fs::remove_file(level.join(GIVEN)).expect("there");
            std::os::unix::fs::symlink(format!("/proc/self/fd/{}", refuses.as_raw_fd()), level.join(GIVEN)).expect("symlink");
            let outcome = give_to_children(&tree.0, &level, &wanted);
            assert_eq!(outcome.is_ok(), is_enough, "{outcome:?}");
            if let Err(error) = outcome {
                assert!(matches!(&error, Error::EnableControllers { controllers, .. } if controllers == "+io"), "{error:?}");
            }
        }
    }

    #[test]
    fn controllers_are_given_from_the_root_down_and_only_where_they_lack() {
        let tree = Fixture::new("give", ["memory pids", "", ""]);
        let wanted = Controller::of_v2_list("memory pids");
        give_to_children(&tree.0, &tree.0.join("level1/level2"), &wanted).expect("plain files");
        assert_eq!(tree.given(""), "memory pids");
        assert_eq!(tree.given("level1"), "+memory +pids");
        assert_eq!(tree.given("level1/level2"), "+memory +pids");
    }
}
