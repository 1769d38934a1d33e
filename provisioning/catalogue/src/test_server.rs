// SPDX-License-Identifier: Apache-2.0
//! A small HTTP server over loopback that can misbehave in every way a test needs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// What the server does with a request.
pub(crate) enum Reply {
    /// 200 with this body.
    Bytes(Vec<u8>),
    /// 404.
    Missing,
    /// Another status.
    Status(u16),
    /// Half of the body, then silence.
    Stall(Vec<u8>),
    /// Half of the body, then the connection ends.
    Early(Vec<u8>),
    /// A body without end.
    Endless,
    /// One byte every 50 ms.
    Drip(Vec<u8>),
}

/// Makes a bad answer of the good one.
pub(crate) type Spoil = fn(Vec<u8>) -> Reply;

/// A running server; stops when dropped.
pub(crate) struct Server {
    pub(crate) url: url::Url,
    requests: Arc<Mutex<BTreeMap<String, u32>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start(answer: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("bound");
        let requests = Arc::new(Mutex::new(BTreeMap::new()));
        let (answer, seen) = (Arc::new(answer), Arc::clone(&requests));
        let task = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (answer, seen) = (Arc::clone(&answer), Arc::clone(&seen));
                open.spawn(async move {
                    let _ = serve(stream, answer.as_ref(), &seen).await;
                });
            }
        });
        let url = url::Url::parse(&format!("http://{address}")).expect("a URL");
        Self { url, requests, task }
    }

    /// Requests in all.
    pub(crate) fn count(&self) -> u32 {
        self.requests.lock().expect("unpoisoned").values().sum()
    }

    /// Most requests of one path.
    pub(crate) fn most(&self) -> u32 {
        self.requests.lock().expect("unpoisoned").values().copied().max().unwrap_or(0)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    stream: TcpStream,
    answer: &(impl Fn(&str) -> Reply + ?Sized),
    seen: &Mutex<BTreeMap<String, u32>>,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut first = String::new();
    stream.read_line(&mut first).await?;
    let path = first.split_whitespace().nth(1).unwrap_or("/").to_owned();
    let mut line = String::new();
    while stream.read_line(&mut line).await? > 2 {
        line.clear();
    }
    *seen.lock().expect("unpoisoned").entry(path.clone()).or_default() += 1;
    let head = |status: u16, length: usize| {
        format!("HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n")
    };
    match answer(&path) {
        Reply::Bytes(body) => {
            stream.write_all(head(200, body.len()).as_bytes()).await?;
            stream.write_all(&body).await?;
        }
        Reply::Missing => stream.write_all(head(404, 0).as_bytes()).await?,
        Reply::Status(status) => stream.write_all(head(status, 0).as_bytes()).await?,
        Reply::Stall(body) => {
            stream.write_all(head(200, body.len()).as_bytes()).await?;
            stream.write_all(&body[..body.len() / 2]).await?;
            stream.flush().await?;
            std::future::pending::<()>().await;
        }
        Reply::Early(body) => {
            stream.write_all(head(200, body.len()).as_bytes()).await?;
            stream.write_all(&body[..body.len() / 2]).await?;
        }
        Reply::Endless => {
            stream.write_all(b"HTTP/1.1 200 X\r\nConnection: close\r\n\r\n").await?;
            loop {
                stream.write_all(&[0x28; 4096]).await?;
            }
        }
        Reply::Drip(body) => {
            stream.write_all(head(200, body.len()).as_bytes()).await?;
            for byte in body {
                stream.write_all(&[byte]).await?;
                stream.flush().await?;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    stream.shutdown().await
}

/// A client for loopback.
pub(crate) fn client() -> reqwest::Client {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    reqwest::Client::builder().no_proxy().build().expect("a client")
}
