//! Opening files in directories that somebody else may have put something into.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Opens what must be an ordinary file. A link would lead elsewhere, and a FIFO would keep whoever opens it waiting for
/// ever. Directories on the way may be links: where a store is, is its owner's choice.
pub fn open_ordinary(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    match options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path) {
        Ok(file) if file.metadata()?.is_file() => Ok(file),
        // ENXIO is a socket, and a FIFO that nobody reads.
        Err(error) if !matches!(error.raw_os_error(), Some(libc::ELOOP | libc::ENXIO | libc::EISDIR)) => Err(error),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, NOT_ORDINARY)),
    }
}

const NOT_ORDINARY: &str = "it is no ordinary file";

/// Whether this is why a file was not opened.
pub fn is_not_ordinary(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::InvalidInput && error.raw_os_error().is_none()
}

/// All of an ordinary file that has at most `max` bytes.
pub fn read_ordinary(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    open_ordinary(OpenOptions::new().read(true), path)?.take(max + 1).read_to_end(&mut text)?;
    if text.len() as u64 <= max {
        return Ok(text);
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, format!("it has more than {max} bytes")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ordinary_files_of_some_size_are_read() {
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().join(name);
        std::fs::write(at("file"), "12345").unwrap();
        std::os::unix::fs::symlink("file", at("link")).unwrap();
        std::fs::create_dir(at("dir")).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(at("fifo")).status().unwrap().success());
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        assert_eq!(read_ordinary(&at("file"), 5).unwrap(), b"12345");
        assert!(read_ordinary(&at("file"), 4).is_err());
        for name in ["link", "dir", "fifo", "socket", "none"] {
            let error = read_ordinary(&at(name), 5).unwrap_err();
            assert_eq!(is_not_ordinary(&error), name != "none", "{name}: {error}");
            let error = open_ordinary(OpenOptions::new().write(true), &at(name)).unwrap_err();
            assert_eq!(is_not_ordinary(&error), name != "none", "{name}: {error}");
        }
    }
}
