//! What a cgroup is called in records.

use super::containers::{container_id, may_be_home};
use super::hierarchy::{is_slice, is_unit, unit_of};

/// Returns `unit:x.service`, `container:ID` or `cgroup:/path`.
///
/// The unit is the outermost that is no slice: what is below it may be delegated to a user, who can name a cgroup like
/// any unit. A user's own services are therefore `unit:user@1000.service`.
pub fn name_of(path: &str) -> String {
    let mut parts = path.split('/').filter(|part| !part.is_empty()).skip_while(|part| is_slice(part));
    let Some(first) = parts.next() else { return format!("cgroup:{path}") };
    let directories = [first].into_iter().chain(parts);
    let last = directories.clone().position(|part| !may_be_home(part) || container_id(part).is_some());
    let container = last.and_then(|at| container_id(directories.clone().nth(at)?));
    match container {
        Some(id) => format!("container:{id}"),
        None if is_unit(first) => format!("unit:{}", unit_of(first)),
        None => format!("cgroup:{path}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_called_after_the_unit_or_the_container_that_the_system_made() {
        let id = "0123456789abcdef".repeat(4);
        let of = |path: &str| name_of(path);
        assert_eq!(of("/system.slice/payments.service"), "unit:payments.service");
        assert_eq!(of("/system.slice/payments.service/control"), "unit:payments.service");
        assert_eq!(of("/system.slice/system-x.slice/x@1.service"), "unit:x@1.service");
        assert_eq!(of("/system.slice/_cpu.service"), "unit:cpu.service");
        assert_eq!(of("/user.slice/user-7.slice/session-3.scope"), "unit:session-3.scope");
        assert_eq!(of(&format!("/system.slice/docker-{id}.scope")), format!("container:{id}"));
        assert_eq!(of(&format!("/docker/{id}/below")), format!("container:{id}"));
        let pod = format!("/kubepods.slice/kubepods-pod7.slice/cri-containerd-{id}.scope");
        assert_eq!(of(&pod), format!("container:{id}"));
        assert_eq!(of("/lxc/a"), "cgroup:/lxc/a");
        assert_eq!(of("/system.slice"), "cgroup:/system.slice");
        assert_eq!(of("/"), "cgroup:/");
    }

    #[test]
    fn nobody_passes_for_a_unit_by_the_name_of_a_directory_of_his_own() {
        let id = "f".repeat(64);
        let user = "/user.slice/user-7.slice/user@7.service";
        for below in ["app.slice/payments.service", &format!("docker-{id}.scope"), "payments.service"] {
            assert_eq!(name_of(&format!("{user}/{below}")), "unit:user@7.service");
        }
        assert_eq!(name_of("/mine/payments.service"), "cgroup:/mine/payments.service");
    }
}
