// SPDX-License-Identifier: Apache-2.0
//! The example workload: counts parts, and never forgets one it has acknowledged.
//!
//! ```text
//! parts-counter seed FOLDER     prints "ADDRESS/PREFIX [GATEWAY]" of a NoCloud folder
//! parts-counter serve FOLDER [ADDRESS:PORT]
//!
//! GET  /             a page with the counter
//! POST /write?n=K    appends K to the log and stamps a block of each disk; 200 and "K STAMP" only after fdatasync
//! GET  /log          every entry, one a line
//! GET  /stamps       every stamped block: disk, block, its last stamp or "blank" or "torn"
//! GET  /health       200
//! ```
//!
//! Of the disk that SYSTEM_DISK names the end is stamped. std only: it is compiled alone, statically, for an initramfs.

#[path = "parts-counter/stamps.rs"]
mod stamps;

use stamps::{Stamp, Stamps};
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// Connections served at once; more are turned away.
const CONNECTIONS_MAX: usize = 64;
/// Longest request line or header line, bytes.
const LINE_BYTES_MAX: u64 = 2048;
/// Most header lines.
const HEADERS_MAX: usize = 64;
/// An idle connection is closed after this.
const IDLE: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match args.as_slice() {
        ["seed", folder] => print_seed(Path::new(folder)),
        ["serve", folder] => serve(Path::new(folder), "0.0.0.0:80"),
        ["serve", folder, listen] => serve(Path::new(folder), listen),
        _ => Err(io::Error::other("usage: parts-counter seed FOLDER | serve FOLDER [LISTEN]")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("parts-counter: {err}");
            ExitCode::FAILURE
        }
    }
}

/// Prints the address (and gateway) the NoCloud folder gives this VM.
fn print_seed(folder: &Path) -> io::Result<()> {
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap_or_default();
    match seed_of(&read("user-data"), &read("network-config")) {
        Some(seed) => {
            println!("{seed}");
            Ok(())
        }
        None => Err(io::Error::other("no ADDRESS and no network-config")),
    }
}

/// `ADDRESS` and `GATEWAY` of the user-data, else the first address of the network-config.
fn seed_of(user_data: &str, network_config: &str) -> Option<String> {
    if let Some(address) = value_of(user_data, "ADDRESS").filter(|text| is_cidr(text)) {
        let gateway = value_of(user_data, "GATEWAY").filter(|text| is_address(text));
        return Some(format!("{address} {}", gateway.unwrap_or_default()).trim().to_owned());
    }
    let separators = |c: char| c.is_whitespace() || "[],\"'".contains(c);
    let mut words = network_config.split(separators);
    let address = words.find(|word| is_cidr(word))?;
    let mut words = network_config.split(separators).skip_while(|w| !w.starts_with("gateway4"));
    let gateway = words.find(|word| is_address(word)).unwrap_or_default();
    Some(format!("{address} {gateway}").trim().to_owned())
}

/// The value of a `KEY: value` or `KEY=value` line, without quotes.
fn value_of<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let line = line.trim().trim_start_matches("- ").trim_matches(['"', '\'']);
        let rest = line.strip_prefix(key)?.trim_start_matches(['"', '\'']);
        let value = rest.strip_prefix(':').or_else(|| rest.strip_prefix('='))?;
        Some(value.trim().trim_matches(['"', '\'']))
    })
}

fn is_cidr(text: &str) -> bool {
    let Some((address, prefix)) = text.split_once('/') else { return false };
    is_address(address) && prefix.parse::<u8>().is_ok_and(|bits| bits <= 32)
}

fn is_address(text: &str) -> bool {
    text.parse::<Ipv4Addr>().is_ok()
}

/// The log on the data disk, and all of it in memory.
struct Log {
    file: File,
    entries: Vec<u64>,
    stamps: Stamps,
    starts: usize,
}

impl Log {
    /// Opens the log; a last line cut by a power failure was never acknowledged and is cut off.
    fn open(folder: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(folder.join("log"))?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let lines = text[..whole].split(|byte| *byte == b'\n');
        let entries =
            lines.filter_map(|line| std::str::from_utf8(line).ok()?.parse().ok()).collect();
        let end = u64::try_from(whole).map_err(io::Error::other)?;
        file.set_len(end)?;
        file.seek(SeekFrom::Start(end))?;
        let mut starts = options.open(folder.join("starts"))?;
        starts.seek(SeekFrom::End(0))?;
        starts.write_all(b"x")?;
        let count = usize::try_from(starts.metadata()?.len()).map_err(io::Error::other)?;
        file.sync_all()?;
        starts.sync_all()?;
        let mut stamps = Stamps::default();
        stamps.add_file("data", &folder.join("stamps"))?;
        File::open(folder)?.sync_all()?;
        Ok(Self { file, entries, stamps, starts: count })
    }

    /// Appends an entry; returns the number of its stamp once all of it is on the disks.
    fn append(&mut self, entry: u64) -> io::Result<u64> {
        self.file.write_all(format!("{entry}\n").as_bytes())?;
        self.file.sync_data()?;
        let stamp = self.stamps.write()?;
        self.entries.push(entry);
        Ok(stamp)
    }
}

fn serve(folder: &Path, listen: &str) -> io::Result<()> {
    let mut log = Log::open(folder)?;
    if let Some(disk) = std::env::var_os("SYSTEM_DISK").filter(|disk| !disk.is_empty()) {
        log.stamps.add_device("system", Path::new(&disk))?;
    }
    let log = Arc::new(Mutex::new(log));
    let listener = TcpListener::bind(listen)?;
    // In one write: each write to the kernel's log is a line.
    let line = format!("parts-counter: listening on {}\n", listener.local_addr()?);
    io::stderr().write_all(line.as_bytes())?;
    let open = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        if open.fetch_add(1, Ordering::SeqCst) >= CONNECTIONS_MAX {
            open.fetch_sub(1, Ordering::SeqCst);
            continue;
        }
        let (log, open) = (Arc::clone(&log), Arc::clone(&open));
        std::thread::spawn(move || {
            let _ = connection(&stream, &log);
            open.fetch_sub(1, Ordering::SeqCst);
        });
    }
    Ok(())
}

/// Answers requests until the other side ends, is idle, or speaks no HTTP.
fn connection(stream: &TcpStream, log: &Mutex<Log>) -> io::Result<()> {
    stream.set_read_timeout(Some(IDLE))?;
    stream.set_write_timeout(Some(IDLE))?;
    stream.set_nodelay(true)?;
    let mut input = BufReader::new(stream);
    while let Some(request) = read_request(&mut input)? {
        let (status, kind, body) = answer(&request, log)?;
        let keep = if request.keep { "keep-alive" } else { "close" };
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\
             Cache-Control: no-store\r\nConnection: {keep}\r\n\r\n",
            body.len()
        );
        let mut output = stream;
        output.write_all((head + &body).as_bytes())?;
        if !request.keep {
            break;
        }
    }
    Ok(())
}

struct Request {
    method: String,
    target: String,
    keep: bool,
}

fn read_request(input: &mut BufReader<&TcpStream>) -> io::Result<Option<Request>> {
    let first = read_line(input)?;
    let mut words = first.split_whitespace();
    let (Some(method), Some(target), Some(version)) = (words.next(), words.next(), words.next())
    else {
        return Ok(None);
    };
    let mut request = Request {
        method: method.to_owned(),
        target: target.to_owned(),
        keep: version == "HTTP/1.1",
    };
    let mut body = 0_u64;
    for _ in 0..HEADERS_MAX {
        let line = read_line(input)?;
        if line.is_empty() {
            io::copy(&mut input.take(body), &mut io::sink())?;
            return Ok(Some(request));
        }
        let (name, value) = line.split_once(':').unwrap_or((&line, ""));
        match name.trim().to_ascii_lowercase().as_str() {
            "connection" if value.trim().eq_ignore_ascii_case("close") => request.keep = false,
            "content-length" => body = value.trim().parse().unwrap_or(0).min(LINE_BYTES_MAX),
            _ => {}
        }
    }
    Ok(None)
}

fn read_line(input: &mut BufReader<&TcpStream>) -> io::Result<String> {
    let mut line = Vec::new();
    input.take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
    let line = String::from_utf8_lossy(&line);
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

type Answer = (&'static str, &'static str, String);

fn answer(request: &Request, log: &Mutex<Log>) -> io::Result<Answer> {
    let text = "text/plain; charset=utf-8";
    let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
    Ok(match (request.method.as_str(), path) {
        ("GET", "/") => ("200 OK", "text/html; charset=utf-8", page(&lock(log))),
        ("GET", "/health") => ("200 OK", text, "well\n".into()),
        ("GET", "/log") => {
            let entries = lock(log);
            let lines = entries.entries.iter().fold(String::new(), |mut lines, entry| {
                let _ = writeln!(lines, "{entry}");
                lines
            });
            ("200 OK", text, lines)
        }
        ("GET", "/stamps") => ("200 OK", text, stamped(&lock(log).stamps)?),
        ("POST", "/write") => match query.strip_prefix("n=").and_then(|n| n.parse().ok()) {
            Some(entry) => match lock(log).append(entry) {
                Ok(stamp) => ("200 OK", text, format!("{entry} {stamp}\n")),
                Err(err) => {
                    // What is on the disk now is unknown: end, so that the next start reads it.
                    eprintln!("parts-counter: write failed: {err}");
                    std::process::exit(1);
                }
            },
            None => ("400 Bad Request", text, "write?n=NUMBER\n".into()),
        },
        (_, "/" | "/health" | "/log" | "/stamps" | "/write") => {
            ("405 Method Not Allowed", text, "method not allowed\n".into())
        }
        _ => ("404 Not Found", text, "not found\n".into()),
    })
}

fn stamped(stamps: &Stamps) -> io::Result<String> {
    let mut lines = String::new();
    for (disk, block, stamp) in stamps.read()? {
        let _ = match stamp {
            Stamp::Blank => writeln!(lines, "{disk} {block} blank"),
            Stamp::Whole(number) => writeln!(lines, "{disk} {block} {number}"),
            Stamp::Torn => writeln!(lines, "{disk} {block} torn"),
        };
    }
    Ok(lines)
}

fn lock(log: &Mutex<Log>) -> MutexGuard<'_, Log> {
    log.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn page(log: &Log) -> String {
    let count = log.entries.len();
    let last = log.entries.last().map_or_else(|| "none yet".into(), u64::to_string);
    let starts = log.starts;
    format!(
        r#"<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1"><title>Parts counter</title><style>
body{{font:17px/1.5 system-ui,sans-serif;background:#f3f4f1;color:#1d2521;margin:0;display:grid;min-height:100vh;place-items:center}}
main{{background:#fff;border:1px solid #d8dcd6;border-radius:10px;padding:32px 44px;max-width:26em}}
h1{{font-size:17px;margin:0;color:#5b665f;font-weight:600}}
b{{display:block;font-size:84px;line-height:1.1;font-variant-numeric:tabular-nums}}
button{{font:inherit;background:#1f6f4a;color:#fff;border:0;border-radius:6px;padding:9px 20px}}
p{{color:#5b665f;margin:14px 0}}</style></head><body><main>
<h1>Parts booked at this counter</h1><b id="count">{count}</b>
<p>Last part: {last}. This machine has started {starts} times, and every booked part is still here.</p>
<button onclick="fetch('/write?n='+Date.now(),{{method:'POST'}}).then(()=>location.reload())">Book a part</button>
</main></body></html>
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn temp(name: &str) -> std::path::PathBuf {
        let folder = std::env::temp_dir().join(format!("parts-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).expect("made");
        folder
    }

    #[test]
    fn entries_survive_and_a_torn_line_is_cut_off() {
        let folder = temp("torn");
        let mut log = Log::open(&folder).expect("opened");
        assert_eq!(log.append(7).expect("written"), 1);
        assert_eq!(log.append(8).expect("written"), 2);
        drop(log);
        let mut file = OpenOptions::new().append(true).open(folder.join("log")).expect("opened");
        file.write_all(b"99").expect("written");
        let mut log = Log::open(&folder).expect("opened");
        assert_eq!((log.entries.as_slice(), log.starts), (&[7, 8][..], 2));
        log.append(9).expect("written");
        assert_eq!(std::fs::read_to_string(folder.join("log")).expect("read"), "7\n8\n9\n");
        let _ = std::fs::remove_dir_all(folder);
    }

    #[test]
    fn the_address_is_found_and_nothing_else_is_taken_for_one() {
        let config =
            "#cloud-config\nforecourt:\n  ADDRESS: \"10.0.2.100/24\"\n  GATEWAY: 10.0.2.2\n";
        assert_eq!(seed_of(config, "").as_deref(), Some("10.0.2.100/24 10.0.2.2"));
        let lines = "forecourt:\n  - ADDRESS=10.0.2.7/24\n";
        assert_eq!(seed_of(lines, "").as_deref(), Some("10.0.2.7/24"));
        let json = "#cloud-config\nforecourt:\n  \"ADDRESS\": \"10.0.2.8/24\"\n";
        assert_eq!(seed_of(json, "").as_deref(), Some("10.0.2.8/24"));
        let network =
            "version: 2\nethernets:\n  e:\n    addresses: [10.0.2.9/24]\n    gateway4: 10.0.2.2\n";
        assert_eq!(seed_of("", network).as_deref(), Some("10.0.2.9/24 10.0.2.2"));
        for bad in ["", "ADDRESS: 10.0.2.100", "ADDRESS: $(reboot)/24", "ADDRESS: 10.0.2.1/33"] {
            assert_eq!(seed_of(bad, ""), None, "{bad}");
        }
    }

    #[test]
    fn requests_over_one_connection_are_answered_and_nonsense_ends_it() {
        let folder = temp("http");
        let log = Mutex::new(Log::open(&folder).expect("opened"));
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let address = listener.local_addr().expect("bound");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (stream, _) = listener.accept().expect("accepted");
                let _ = connection(&stream, &log);
            });
            let mut stream = TcpStream::connect(address).expect("connected");
            stream
                .write_all(
                    b"POST /write?n=5 HTTP/1.1\r\nContent-Length: 2\r\n\r\nxx\
                      POST /write?n=-1 HTTP/1.1\r\n\r\nGET /../log HTTP/1.1\r\n\r\n\
                      GET /stamps HTTP/1.1\r\n\r\nGET /log HTTP/1.1\r\n\r\n\x00\r\n",
                )
                .expect("sent");
            let mut got = String::new();
            stream.read_to_string(&mut got).expect("answered");
            let statuses: Vec<&str> =
                got.lines().filter_map(|line| line.strip_prefix("HTTP/1.1 ")).collect();
            assert_eq!(
                statuses,
                ["200 OK", "400 Bad Request", "404 Not Found", "200 OK", "200 OK"]
            );
            assert!(got.contains("\ndata 1 1\ndata 2 blank\n"), "{got}");
            assert!(got.ends_with("\r\n\r\n5\n"), "{got}");
        });
        let _ = std::fs::remove_dir_all(folder);
    }
}
