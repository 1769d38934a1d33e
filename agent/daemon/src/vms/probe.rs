// SPDX-License-Identifier: Apache-2.0
//! Health probes: a TCP connection or an HTTP GET to the VM's address.

use provisioning_protocol::template::ProbeSpec;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A VM that takes longer is not well.
const LIMIT: Duration = Duration::from_secs(3);

/// Whether the probe is answered now.
pub async fn healthy(probe: &ProbeSpec, address: IpAddr) -> bool {
    let asked = async {
        match probe {
            ProbeSpec::Tcp { port } => {
                TcpStream::connect(SocketAddr::new(address, *port)).await.is_ok()
            }
            ProbeSpec::Http { port, path } => http_ok(SocketAddr::new(address, *port), path).await,
        }
    };
    timeout(LIMIT, asked).await.unwrap_or(false)
}

async fn http_ok(at: SocketAddr, path: &str) -> bool {
    let Ok(mut stream) = TcpStream::connect(at).await else { return false };
    let request = format!("GET {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n");
    if stream.write_all(request.as_bytes()).await.is_err() {
        return false;
    }
    let mut head = [0; 12];
    stream.read_exact(&mut head).await.is_ok()
        && head.starts_with(b"HTTP/1.")
        && head.ends_with(b" 200")
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    async fn answering(text: &'static str) -> (IpAddr, u16) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 256];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(text.as_bytes()).await;
            }
        });
        (at.ip(), at.port())
    }

    #[tokio::test]
    async fn only_a_200_is_healthy() {
        for (text, well) in [
            ("HTTP/1.1 200 OK\r\n\r\n", true),
            ("HTTP/1.0 200 OK\r\n\r\n", true),
            ("HTTP/1.1 503 Busy\r\n\r\n", false),
            ("HTTP/1.1 2", false),
            ("SSH-2.0-x 200 200 200", false),
        ] {
            let (ip, port) = answering(text).await;
            let probe = ProbeSpec::Http { port, path: "/health".into() };
            assert_eq!(healthy(&probe, ip).await, well, "{text:?}");
        }
    }

    #[tokio::test]
    async fn a_closed_port_is_not_healthy() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = socket.local_addr().unwrap();
        drop(socket);
        assert!(!healthy(&ProbeSpec::Tcp { port: at.port() }, at.ip()).await);
    }
}
