// SPDX-License-Identifier: Apache-2.0
//! The few lines of HTTP/1.1 the lab needs to talk to a VM's page.

use anyhow::{Context, bail};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longest answer read.
const ANSWER_BYTES_MAX: u64 = 4 << 20;

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The body.
    pub body: String,
}

/// GETs a path from a loopback port.
pub fn get(port: u16, path: &str, limit: Duration) -> anyhow::Result<Answer> {
    request(port, "GET", path, "", limit)
}

/// POSTs a body to a path of a loopback port.
pub fn post(port: u16, path: &str, body: &str, limit: Duration) -> anyhow::Result<Answer> {
    request(port, "POST", path, body, limit)
}

fn request(
    port: u16,
    method: &str,
    path: &str,
    body: &str,
    limit: Duration,
) -> anyhow::Result<Answer> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let mut stream = TcpStream::connect_timeout(&address, limit)?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: lab\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).context("Reading the answer")?;
    parse(&String::from_utf8_lossy(&answer))
}

fn parse(text: &str) -> anyhow::Result<Answer> {
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        bail!("no whole HTTP answer ({} bytes)", text.len());
    };
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
    let Some(status) = status else { bail!("no HTTP status in {head:?}") };
    // An answer cut short must not pass for a whole one.
    let announced = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    if announced.is_some_and(|length| body.len() < length) {
        bail!("the HTTP answer ended early");
    }
    Ok(Answer { status, body: body.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn a_whole_answer_is_read() {
        let answer = parse("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi").unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (200, "hi"));
    }

    #[test]
    fn an_answer_cut_short_is_an_error() {
        assert!(parse("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhi").is_err());
        assert!(parse("HTTP/1.1 200 OK\r\nConte").is_err());
        assert!(parse("").is_err());
    }
}
