//! Where a running domain keeps the files that other programs look for: its run directory.
//!
//! Names only: the VMM makes and removes the directory, the console client looks into it.

use std::path::PathBuf;

/// The file in a domain's run directory where one of its consoles is: a unix socket, or a symbolic
/// link to a pty or a socket. The first console is number 0.
pub fn console_file(number: u32) -> String {
    match number {
        0 => "console".to_owned(),
        number => format!("console-{number}"),
    }
}

/// The run directory of the domain `name`: `/run/xenner/NAME` for root, otherwise
/// `$XDG_RUNTIME_DIR/xenner/NAME`, with `/run/user/UID` where that variable is missing.
///
/// The name must have passed [`check_name`].
pub fn run_dir(name: &str) -> PathBuf {
    let uid = rustix::process::geteuid();
    if uid.is_root() {
        return PathBuf::from("/run/xenner").join(name);
    }
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(dir) if !dir.is_empty() => PathBuf::from(dir).join("xenner").join(name),
        _ => PathBuf::from(format!("/run/user/{}", uid.as_raw()))
            .join("xenner")
            .join(name),
    }
}

/// A console of the domain `name`: [`console_file`] in its [`run_dir`].
pub fn console_path(name: &str, number: u32) -> PathBuf {
    run_dir(name).join(console_file(number))
}

/// Whether `name` can be a domain's name here: one component of a path, neither empty nor `.` nor
/// `..`.
pub fn check_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(['/', '\0'])
}
