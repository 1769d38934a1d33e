// SPDX-License-Identifier: Apache-2.0
//! `forecourt-console`: the recovery console on a terminal.

mod actions;

use agent_console::input::Decoder;
use agent_console::screen::{Action, Event, Key, Screen};
use agent_console::source::Source;
use agent_console::term::{self, SIZE_DEFAULT, Terminal};
use agent_console::view::{Theme, to_text, view};
use anyhow::Context;
use clap::Parser;
use signal_hook::consts::{SIGINT, SIGQUIT, SIGTSTP, SIGTTIN, SIGTTOU};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

/// The files are read, and the picture is brought up to date, so often.
const SECOND: Duration = Duration::from_secs(1);
/// A sequence is over when nothing follows for so long; 12 bytes at 9600 baud take 13 ms.
const PAUSE: Duration = Duration::from_millis(100);

/// The recovery console on a server's screen or serial line.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    /// Terminal to use instead of standard input and output.
    #[arg(long, value_name = "PATH")]
    tty: Option<PathBuf>,
    /// Draw from `status.json`, `os-release` and `machine.json` in this folder, and never reboot.
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Print one frame as text and end.
    #[arg(long)]
    once: bool,
    /// Columns and rows of that frame.
    #[arg(long, value_name = "COLUMNSxROWS", value_parser = size, requires = "once")]
    size: Option<(u16, u16)>,
}

fn size(text: &str) -> Result<(u16, u16), String> {
    let parts = text.split_once('x').and_then(|(c, r)| Some((c.parse().ok()?, r.parse().ok()?)));
    parts.map(term::sane).ok_or_else(|| "expected something like 80x24".to_owned())
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let source = match options.state_dir {
        Some(dir) => Source::Folder(dir),
        None => Source::Server,
    };
    if options.once {
        let (columns, rows) = options.size.unwrap_or(SIZE_DEFAULT);
        let frame = view(&Screen::new(source.read()), Theme::PLAIN, columns, rows);
        print!("{}", to_text(&frame));
        return Ok(());
    }
    ignore_keyboard_signals()?;
    if let Some(tty) = &options.tty {
        term::attach(tty)?;
    }
    run(&source)
}

/// Before raw mode is on, or when a program before us left it off, these keys would end us.
fn ignore_keyboard_signals() -> anyhow::Result<()> {
    for signal in [SIGINT, SIGQUIT, SIGTSTP, SIGTTIN, SIGTTOU] {
        signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)))
            .with_context(|| format!("Cannot ignore signal {signal}"))?;
    }
    Ok(())
}

fn run(source: &Source) -> anyhow::Result<()> {
    let mut terminal = Terminal::open()?;
    let mut screen = Screen::new(source.read());
    let mut decoder = Decoder::default();
    let mut next = Instant::now() + SECOND;
    loop {
        let (columns, rows) = terminal.size();
        terminal.show(view(&screen, terminal.theme(), columns, rows))?;
        for key in keys(&terminal, &mut decoder, next)? {
            press(&mut screen, &mut terminal, source, key);
        }
        if Instant::now() >= next {
            screen.step(Event::Second);
            screen.step(Event::Facts(Box::new(source.read())));
            next = Instant::now() + SECOND;
        }
    }
}

/// Waits for keys until `until`, or returns none.
fn keys(terminal: &Terminal, decoder: &mut Decoder, until: Instant) -> anyhow::Result<Vec<Key>> {
    let bytes = terminal.keys(until.saturating_duration_since(Instant::now()))?;
    let mut keys: Vec<Key> = bytes.iter().filter_map(|byte| decoder.byte(*byte)).collect();
    if bytes.is_empty() || decoder.is_idle() {
        keys.extend(decoder.pause());
        return Ok(keys);
    }
    let more = terminal.keys(PAUSE)?;
    keys.extend(more.iter().filter_map(|byte| decoder.byte(*byte)));
    if more.is_empty() {
        keys.extend(decoder.pause());
    }
    Ok(keys)
}

fn press(screen: &mut Screen, terminal: &mut Terminal, source: &Source, key: Key) {
    match screen.step(Event::Key(key)) {
        Some(Action::Repaint) => terminal.forget(),
        Some(Action::Reboot { reason }) => {
            let outcome = actions::reboot(source, &reason);
            screen.step(Event::Done(outcome));
        }
        Some(Action::DeclarePeerOff { reason }) => {
            let outcome = actions::declare_peer_off(source, &reason);
            screen.step(Event::Done(outcome));
        }
        Some(Action::UseOlderData { reason }) => {
            let outcome = actions::use_older_data(source, &reason);
            screen.step(Event::Done(outcome));
        }
        Some(Action::GiveUpData { reason }) => {
            let outcome = actions::give_up_data(source, &reason);
            screen.step(Event::Done(outcome));
        }
        None => (),
    }
}
