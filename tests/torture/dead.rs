//! An output that is dead: for a while its port refuses connections, for a while it takes them and
//! never answers.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

const PHASE: Duration = Duration::from_secs(7);

/// Returns the address; the thread behind it ends with the process.
pub(crate) fn start() -> io::Result<SocketAddr> {
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    thread::spawn(move || {
        loop {
            thread::park_timeout(PHASE);
            // taken by somebody else: it goes on refusing
            if let Ok(listener) = TcpListener::bind(address) {
                drop(take(&listener));
            }
        }
    });
    Ok(address)
}

fn take(listener: &TcpListener) -> io::Result<Vec<TcpStream>> {
    listener.set_nonblocking(true)?;
    let end = Instant::now() + PHASE;
    let mut held = Vec::new();
    while Instant::now() < end {
        match listener.accept() {
            Ok((stream, _)) => held.push(stream),
            Err(_) => thread::park_timeout(Duration::from_millis(20)),
        }
    }
    Ok(held)
}
