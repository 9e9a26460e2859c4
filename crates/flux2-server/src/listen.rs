//! Sockets that the server listens on.

use std::io;
use std::net::{SocketAddr, TcpListener};
#[cfg(unix)]
use std::os::unix::fs::FileTypeExt as _;
#[cfg(unix)]
use std::os::unix::net::{UnixListener, UnixStream};
#[cfg(unix)]
use std::path::{Path, PathBuf};

/// A socket that the server listens on.
#[derive(Debug)]
pub enum Listener {
    /// A TCP port.
    Tcp(TcpListener),
    /// A Unix socket.
    #[cfg(unix)]
    Unix {
        /// The socket.
        socket: UnixListener,
        /// Its file, if it is to be removed at the end.
        file: Option<PathBuf>,
    },
}

impl Listener {
    /// Listen on a TCP port; port 0 is any that is free.
    ///
    /// # Errors
    /// If the address is taken or not of this machine.
    pub fn tcp(address: SocketAddr) -> io::Result<Self> {
        TcpListener::bind(address).map(Listener::Tcp)
    }

    /// Listen on a Unix socket. A file of that name that a process left behind is replaced.
    ///
    /// # Errors
    /// If another process listens on it, or the file is no socket or cannot be made.
    #[cfg(unix)]
    pub fn unix(file: &Path) -> io::Result<Self> {
        let is_socket = file.symlink_metadata().is_ok_and(|found| found.file_type().is_socket());
        if is_socket && UnixStream::connect(file).is_err() {
            std::fs::remove_file(file)?;
        }
        let socket = UnixListener::bind(file)?;
        Ok(Listener::Unix { socket, file: Some(file.to_owned()) })
    }

    /// Where it listens, for people.
    pub fn address(&self) -> String {
        match self {
            Listener::Tcp(socket) => socket.local_addr().map_or_else(|error| error.to_string(), |a| a.to_string()),
            #[cfg(unix)]
            Listener::Unix { file, .. } => file
                .as_ref()
                .map_or_else(|| "an inherited Unix socket".into(), |file| format!("unix:{}", file.display())),
        }
    }

    /// Whether only processes of this machine reach it.
    pub fn is_local(&self) -> bool {
        match self {
            Listener::Tcp(socket) => socket.local_addr().is_ok_and(|address| address.ip().is_loopback()),
            #[cfg(unix)]
            Listener::Unix { .. } => true,
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_was_left_behind_is_replaced_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("s");
        let first = Listener::unix(&file).unwrap();
        assert_eq!(Listener::unix(&file).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        assert!(file.exists());
        assert!(Listener::unix(&file).is_ok());
        let text = folder.path().join("text");
        std::fs::write(&text, "hi").unwrap();
        assert!(Listener::unix(&text).is_err());
        assert_eq!(std::fs::read(&text).unwrap(), b"hi");
    }
}
