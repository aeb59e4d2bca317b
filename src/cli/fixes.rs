//! What is done about something that keeps a mount from working: in Docker, in Kubernetes, on a plain host. The one place
//! that says so, for `doctor` and for the errors of `run` and `mount`.

use serde::Serialize;

/// What to type or to write, wherever one is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fix {
    /// In a container of Docker or Podman.
    pub docker: String,
    /// In a pod.
    pub kubernetes: String,
    /// On a plain host, as root.
    pub host: String,
}

const DOCKER_RUN: &str = "docker run --device /dev/fuse --cap-add SYS_ADMIN --security-opt apparmor=unconfined ...";
const DOCKER_URING: &str = "docker run --security-opt seccomp=PROFILE.json ...   # Docker's default with io_uring_setup, \
                            io_uring_enter and io_uring_register allowed; enable_uring is the host's";
const POD_DEVICE: &str = "resources: {limits: {smarter-devices/fuse: 1}}   # of a device plugin that offers /dev/fuse; or \
                          securityContext: {privileged: true}";
const POD_PERMISSION: &str =
    "securityContext: {capabilities: {add: [SYS_ADMIN]}, appArmorProfile: {type: Unconfined}}   # of the container";
const POD_URING: &str = "securityContext: {seccompProfile: {type: Localhost, localhostProfile: PROFILE.json}}   # one that \
                         allows io_uring; enable_uring is the node's";

impl Fix {
    /// Of these three.
    pub fn new(docker: impl Into<String>, kubernetes: impl Into<String>, host: impl Into<String>) -> Fix {
        Fix { docker: docker.into(), kubernetes: kubernetes.into(), host: host.into() }
    }

    /// The next command to type, after a failure that was met on the way.
    pub fn hint(&self) -> String {
        let comment = if self.host.contains("   # ") { "; " } else { "   # " };
        format!("{}{comment}in a container: {}; all that is missing: sessionfs doctor", self.host, self.docker)
    }
}

/// `/dev/fuse` cannot be opened, and why.
pub fn no_device(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOENT) => "there is no /dev/fuse: the kernel has no FUSE, or this container hides it".to_owned(),
        Some(libc::ENODEV | libc::ENXIO) => format!("/dev/fuse: {error}: the kernel has no FUSE"),
        Some(libc::EPERM) => format!("/dev/fuse may not be opened: {error}: this container does not allow the device"),
        _ => format!("/dev/fuse may not be opened: {error}"),
    }
}

/// What is done about that.
pub fn device(errno: Option<i32>) -> Fix {
    let host = match errno {
        None | Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => "modprobe fuse",
        // The mode of the file says EACCES, the device cgroup of a container EPERM: only the container's maker can help.
        _ => "chmod 0666 /dev/fuse   # as root",
    };
    Fix::new(DOCKER_RUN, POD_DEVICE, host)
}

/// mount(2) is not permitted, and there is no helper for ordinary users, or it refused.
pub fn helper() -> Fix {
    Fix::new(DOCKER_RUN, POD_PERMISSION, "apt-get install fuse3   # as root, for ordinary users")
}

/// The helper is there and may do nothing.
pub fn helper_mode(path: &str) -> Fix {
    let host = format!("chmod u+s {path}");
    Fix::new(format!("RUN {host}"), format!("RUN {host}   # in the image"), host)
}

/// A switch of the kernel that can forbid namespaces to ordinary users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switch {
    /// As sysctl has it.
    pub name: &'static str,
    /// The value that forbids them.
    pub forbids: &'static str,
    /// One that does not.
    pub allows: &'static str,
}

/// Those of Linux, of Debian and of Ubuntu.
pub const SWITCHES: [Switch; 3] = [
    Switch { name: "user.max_user_namespaces", forbids: "0", allows: "15000" },
    Switch { name: "kernel.unprivileged_userns_clone", forbids: "0", allows: "1" },
    Switch { name: "kernel.apparmor_restrict_unprivileged_userns", forbids: "1", allows: "0" },
];

/// A namespace of one's own is not permitted. The limit of namespaces says ENOSPC; the other switches, and seccomp, EPERM.
pub fn namespace(errno: Option<i32>) -> Fix {
    let (limit, others) = SWITCHES.split_at(1);
    namespace_by(if errno == Some(libc::ENOSPC) { limit } else { others })
}

/// The same where it is known which switches forbid it.
pub fn namespace_by(switches: &[Switch]) -> Fix {
    let set = switches.iter().map(|switch| format!(" {}={}", switch.name, switch.allows));
    Fix::new(DOCKER_RUN, POD_PERMISSION, format!("sysctl{}   # as root", set.collect::<String>()))
}

/// An ordinary user may not let others in.
pub fn allow_other() -> Fix {
    let host = "echo user_allow_other >> /etc/fuse.conf   # as root";
    Fix::new(format!("RUN {host}"), format!("RUN {host}, in the image"), host)
}

/// Requests do not come by io_uring.
pub fn uring() -> Fix {
    let host = "echo Y > /sys/module/fuse/parameters/enable_uring   # Linux 6.14; to stay: packaging/fuse-uring.conf in \
                /etc/modprobe.d";
    Fix::new(DOCKER_URING, POD_URING, host)
}

/// Idle processors of a virtual machine halt at once.
pub fn halt_poll() -> Fix {
    let host = "echo 200000 > /sys/module/haltpoll/parameters/guest_halt_poll_ns   # to stay: \
                packaging/sessionfs-guest.conf in /etc/tmpfiles.d";
    Fix::new(format!("on the host: {host}"), format!("on the node: {host}"), host)
}

/// The kernel is too old.
pub fn kernel() -> Fix {
    Fix::new(
        "the host's kernel is the container's: a host with a later one",
        "a node with a later one",
        "a later kernel",
    )
}

/// The store is where it should not be, or cannot be used.
pub fn store() -> Fix {
    Fix::new(
        "docker run -v sessions:/var/lib/sessionfs ...",
        "a persistentVolumeClaim, mounted at /var/lib/sessionfs",
        "sessionfs --store DIR ...   # on a local disk, and yours: mkdir -m 700 DIR",
    )
}

/// The disk under the store is full, or nearly.
pub fn space(store: &str) -> Fix {
    let host = format!("df -h {store}; df -i {store}   # then make room");
    Fix::new(format!("docker system df   # and on the host: {host}"), "a larger persistentVolumeClaim", host)
}

/// The clock is wrong.
pub fn clock() -> Fix {
    let host = "timedatectl set-ntp true   # or: date -s";
    Fix::new(format!("on the host: {host}"), format!("on the node: {host}"), host)
}

/// Some sessions need a later program.
pub fn version() -> Fix {
    let host = "sessionfs --version   # then the version that wrote them";
    Fix::new("an image with a later sessionfs", "an image with a later sessionfs", host)
}
