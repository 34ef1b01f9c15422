//! The socket that probes and Prometheus come to.
//!
//! `[::]` means every address of the host, of IPv4 too: one socket for both, whatever
//! `net.ipv6.bindv6only` says, because the kubelet probes the first address that the pod has, and
//! of which family that is depends on the cluster. Where the kernel has IPv6 switched off,
//! `0.0.0.0` takes its place. Every other address is bound as it is.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketFlags, SocketType, sockopt};

/// Connections that may wait to be accepted, as many as the standard library lets wait.
const BACKLOG: i32 = 128;

/// Binds `address` and listens there.
pub(super) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let error = match open(address) {
        Ok(listener) => return Ok(listener),
        Err(error) => error,
    };
    let Some(instead) = instead(address, &error) else { return Err(error) };
    tracing::info!(cause = %error, "no IPv6 on this host, so telemetry listens on {instead}");
    open(instead)
}

/// What to try after `address` brought `error`; nothing where that can't help.
fn instead(address: SocketAddr, error: &io::Error) -> Option<SocketAddr> {
    let switched_off = [Errno::AFNOSUPPORT, Errno::ADDRNOTAVAIL];
    let is_off = Errno::from_io_error(error).is_some_and(|errno| switched_off.contains(&errno));
    (is_off && address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED))
        .then(|| SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())))
}

fn open(address: SocketAddr) -> io::Result<TcpListener> {
    if address.is_ipv4() {
        return TcpListener::bind(address);
    }
    // The standard library leaves to the host whether such a socket is for IPv4 too.
    let socket =
        net::socket_with(AddressFamily::INET6, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_ipv6_v6only(&socket, false)?;
    // As the standard library does: an agent that is started again finds connections of the one
    // before that are not quite gone.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    net::bind(&socket, &address)?;
    net::listen(&socket, BACKLOG)?;
    Ok(TcpListener::from(socket))
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;

    #[track_caller]
    fn check(address: &str, error: Errno, expected: Option<&str>) {
        let expected = expected.map(|address| address.parse().unwrap());
        assert_eq!(instead(address.parse().unwrap(), &error.into()), expected, "{address} {error}");
    }

    #[test]
    fn only_every_address_has_another_and_only_where_there_is_no_ipv6() {
        check("[::]:9102", Errno::AFNOSUPPORT, Some("0.0.0.0:9102"));
        check("[::]:0", Errno::ADDRNOTAVAIL, Some("0.0.0.0:0"));
        check("[::]:9102", Errno::ADDRINUSE, None);
        check("[::]:80", Errno::ACCESS, None);
        check("[::1]:9102", Errno::ADDRNOTAVAIL, None);
        check("0.0.0.0:9102", Errno::ADDRNOTAVAIL, None);
        check("10.0.0.1:9102", Errno::ADDRNOTAVAIL, None);
        let address = "[::]:9102".parse().unwrap();
        assert_eq!(instead(address, &ErrorKind::AddrNotAvailable.into()), None, "of no system");
    }

    #[test]
    fn an_address_that_is_named_is_bound_as_it_is() {
        for host in [Ipv4Addr::LOCALHOST, Ipv4Addr::UNSPECIFIED] {
            let listener = listen(SocketAddr::from((host, 0))).unwrap();
            assert_eq!(listener.local_addr().unwrap().ip(), host);
        }
        // A host with IPv6 switched off has no such address, and then there is an error.
        if let Ok(listener) = listen(SocketAddr::from((Ipv6Addr::LOCALHOST, 0))) {
            assert_eq!(listener.local_addr().unwrap().ip(), Ipv6Addr::LOCALHOST);
        }
    }

    #[test]
    fn a_port_that_is_taken_is_an_error() {
        let taken = listen(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))).unwrap();
        let error = listen(taken.local_addr().unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
    }
}
