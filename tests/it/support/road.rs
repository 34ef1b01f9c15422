//! A way to a server that can be closed, and on which answers can be held up.
//!
//! Passes bytes on between one loopback address and another, so a test decides what a program
//! sees of a server without doing anything to the server itself.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// A listener in front of a server. Its connections end when it is dropped.
#[derive(Debug)]
pub(crate) struct Road {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    server: SocketAddr,
    traffic: Mutex<Traffic>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Traffic {
    closed: bool,
    answers_held: bool,
    ended: bool,
    connections: Vec<TcpStream>,
    /// Connections that were ended because the way was closed.
    turned_away: usize,
}

impl Road {
    /// A way to the server at `server`, which may not be there yet.
    pub(crate) fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let (traffic, changed) = (Mutex::default(), Condvar::new());
        let shared = Arc::new(Shared { server, traffic, changed });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || accepting.accept(&listener));
        Self { address, shared }
    }

    /// Where it begins.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends every connection, and each new one at once.
    pub(crate) fn close(&self) {
        let mut traffic = self.shared.traffic();
        traffic.closed = true;
        traffic.end_connections();
    }

    pub(crate) fn open(&self) {
        self.shared.traffic().closed = false;
    }

    /// How many connections began while it was closed.
    pub(crate) fn turned_away(&self) -> usize {
        self.shared.traffic().turned_away
    }

    /// What the server says from now on stays on the way, until [`Self::release_answers`] or the
    /// end of the connection.
    pub(crate) fn hold_answers(&self) {
        self.shared.traffic().answers_held = true;
    }

    pub(crate) fn release_answers(&self) {
        self.shared.traffic().answers_held = false;
        self.shared.changed.notify_all();
    }
}

impl Drop for Road {
    fn drop(&mut self) {
        let mut traffic = self.shared.traffic();
        traffic.ended = true;
        traffic.end_connections();
        drop(traffic);
        self.shared.changed.notify_all();
        // wakes the one that accepts; if it has ended there is nobody to wake
        drop(TcpStream::connect(self.address));
    }
}

impl Traffic {
    fn end_connections(&mut self) {
        for connection in self.connections.drain(..) {
            // it may have ended already
            drop(connection.shutdown(Shutdown::Both));
        }
    }
}

impl Shared {
    fn traffic(&self) -> MutexGuard<'_, Traffic> {
        self.traffic.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        for client in listener.incoming() {
            if self.traffic().ended {
                return;
            }
            // a client that has gone already, or a server that isn't there: the connection ends
            drop(client.and_then(|client| self.join(client)));
        }
    }

    fn join(self: &Arc<Self>, client: TcpStream) -> std::io::Result<()> {
        {
            let mut traffic = self.traffic();
            if traffic.closed {
                traffic.turned_away += 1;
                return Ok(());
            }
        }
        let server = TcpStream::connect(self.server)?;
        {
            let mut traffic = self.traffic();
            if traffic.closed || traffic.ended {
                return Ok(());
            }
            traffic.connections.push(client.try_clone()?);
            traffic.connections.push(server.try_clone()?);
        }
        let (questions, answers) = (Arc::clone(self), Arc::clone(self));
        let (from, to) = (client.try_clone()?, server.try_clone()?);
        thread::spawn(move || questions.pass(&from, &to, false));
        thread::spawn(move || answers.pass(&server, &client, true));
        Ok(())
    }

    /// Passes on what comes until one side ends, and then ends both.
    fn pass(&self, mut from: &TcpStream, mut to: &TcpStream, is_answer: bool) {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            if is_answer && !self.may_answer() {
                break;
            }
            if to.write_all(&buffer[..length]).is_err() {
                break;
            }
        }
        for end in [from, to] {
            // the other direction may have ended it
            drop(end.shutdown(Shutdown::Both));
        }
    }

    /// Waits while answers are held; `false` when the way has ended meanwhile.
    fn may_answer(&self) -> bool {
        let held = |traffic: &mut Traffic| traffic.answers_held && !traffic.ended;
        let traffic = self.changed.wait_while(self.traffic(), held);
        !traffic.unwrap_or_else(PoisonError::into_inner).ended
    }
}
