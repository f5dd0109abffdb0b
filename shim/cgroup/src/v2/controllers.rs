//! Which controllers a cgroup has is what its ancestors wrote to `cgroup.subtree_control`.

use crate::{Controller, Controllers, Error, control_file};
use std::path::Path;

const GIVEN: &str = "cgroup.subtree_control";

/// Lets the children of `parent` have `wanted`. Most of the time they have: that costs one read. Otherwise the ancestors below
/// `root`, and `root`, are seen to first.
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
    let value = request(&missing);
    control_file::write(parent, GIVEN, &value).map_err(|error| match error {
        Error::Write { value, source, .. } => Error::EnableControllers { cgroup: parent.to_owned(), controllers: value, source },
        other => other,
    })
}

fn request(controllers: &[Controller]) -> String {
    let names: Vec<String> = controllers.iter().filter_map(|controller| controller.v2_name()).map(|name| format!("+{name}")).collect();
    names.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
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
