//! Up and down from a cgroup: which subjects it belongs to by the names of its path, what lies below it, which
//! processes are in it.

use std::io;

use super::CgroupError;
use super::hierarchy::{Cgroup, Hierarchy, is_slice_chain, join, units_of};
use crate::model::Subject;

/// Cgroups that lie one in the other, each with the subjects that it stands for by its name.
pub type Lineage = Vec<(Cgroup, Vec<Subject>)>;

impl Hierarchy {
    /// Returns the cgroup at a path and all above it, the root left out, outermost first, each with the subjects that
    /// it stands for by its name. `None` when one of them is gone.
    pub fn lineage(&self, path: &str) -> Result<Option<Lineage>, CgroupError> {
        let path = path.trim_end_matches('/');
        let mut lineage = Vec::new();
        for end in ends(path) {
            let Some(cgroup) = self.cgroup(&path[..end])? else { return Ok(None) };
            let subjects = meanings(&cgroup.path);
            lineage.push((cgroup, subjects));
        }
        Ok(Some(lineage))
    }

    /// Returns every cgroup but the root, at most so many; those that go meanwhile are left out.
    pub fn all(&self, most: usize) -> Result<Vec<Cgroup>, CgroupError> {
        let mut found = Vec::new();
        let mut waiting = vec!["/".to_owned()];
        while let Some(parent) = waiting.pop() {
            for name in self.children(&parent)? {
                if found.len() >= most {
                    return Ok(found);
                }
                let path = join(&parent, &name);
                found.extend(self.cgroup(&path)?);
                waiting.push(path);
            }
        }
        Ok(found)
    }

    /// Returns the processes that are in a cgroup itself. `EOPNOTSUPP`: it is threaded (cgroups(7)).
    pub fn processes(&self, path: &str) -> io::Result<Vec<u32>> {
        let text = std::fs::read_to_string(self.directory(path).join("cgroup.procs"))?;
        Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
    }
}

/// Returns the subjects that a cgroup belongs to by the names of its path, whether it exists or not.
pub fn subjects_by_name(path: &str) -> Vec<Subject> {
    let path = path.trim_end_matches('/');
    ends(path).flat_map(|end| meanings(&path[..end])).collect()
}

/// Where the cgroups of a path end in it, the root left out, outermost first.
fn ends(path: &str) -> impl Iterator<Item = usize> {
    let ends = path.match_indices('/').map(|(at, _)| at).skip(1).chain([path.len()]);
    ends.filter(|end| *end > 0)
}

/// The subjects that a path stands for: itself, and below slices the unit of that name and its template.
fn meanings(path: &str) -> Vec<Subject> {
    let mut subjects = vec![Subject::Cgroup(path.to_owned())];
    if let Some((parent, name)) = path.rsplit_once('/')
        && is_slice_chain(parent)
    {
        subjects.extend(units_of(name).map(|unit| Subject::Unit(unit.into_owned())));
    }
    subjects
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lineage(directories: &str, path: &str) -> Option<Vec<(String, Vec<String>)>> {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join(directories)).unwrap();
        let lineage = Hierarchy::at(root.path()).lineage(path).unwrap()?;
        let texts = |subjects: Vec<Subject>| subjects.iter().map(ToString::to_string).collect();
        Some(lineage.into_iter().map(|(cgroup, subjects)| (cgroup.path, texts(subjects))).collect())
    }

    #[test]
    fn a_control_cgroup_lies_below_the_instance_the_template_and_the_slice() {
        let found = lineage("a.slice/x@1.service/.control", "/a.slice/x@1.service/.control").unwrap();
        let expected = [
            ("/a.slice", vec!["cgroup:/a.slice", "unit:a.slice"]),
            (
                "/a.slice/x@1.service",
                vec!["cgroup:/a.slice/x@1.service", "unit:x@1.service", "unit:x@.service"],
            ),
            ("/a.slice/x@1.service/.control", vec!["cgroup:/a.slice/x@1.service/.control"]),
        ];
        let expected = expected.map(|(path, subjects)| {
            (path.to_owned(), subjects.into_iter().map(str::to_owned).collect::<Vec<_>>())
        });
        assert_eq!(found, expected);
    }

    #[test]
    fn a_unit_in_a_delegated_tree_is_no_unit_of_the_system() {
        let found = lineage("a.service/x.service", "/a.service/x.service").unwrap();
        assert_eq!(found[1].1, ["cgroup:/a.service/x.service"]);
    }

    #[test]
    fn the_root_has_no_lineage_and_what_is_gone_has_none_either() {
        assert_eq!(lineage("a", "/"), Some(vec![]));
        assert_eq!(lineage("a", "/a/b"), None);
    }
}
