// SPDX-License-Identifier: Apache-2.0
//! The terminal: raw mode, its size, its abilities, and sending only what changed.

use crate::view::Theme;
use anyhow::{Context, bail};
use crossterm::{cursor, execute, queue, style, terminal};
use ratatui::backend::{Backend, CrosstermBackend};
use ratatui::buffer::Buffer;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use std::io::{BufWriter, Stdout, Write, stdin, stdout};
use std::path::Path;
use std::time::{Duration, Instant};

/// Size of a terminal that does not tell its own, as a serial line never does.
pub const SIZE_DEFAULT: (u16, u16) = (80, 24);
/// Largest size drawn: more is not a terminal but a mistake.
const SIZE_MAX: (u16, u16) = (250, 100);
/// Most bytes of keys taken before the picture is brought up to date: a paste must not stop it.
const KEYS_MAX: usize = 1024;

/// A terminal in raw mode, and what it shows.
pub struct Terminal {
    backend: CrosstermBackend<BufWriter<Stdout>>,
    shown: Option<Buffer>,
    painted: Instant,
    repaint_every: Duration,
    theme: Theme,
    before: Termios,
}

impl Terminal {
    /// Takes over standard input and output.
    ///
    /// # Errors
    /// If they are no terminal.
    pub fn open() -> anyhow::Result<Self> {
        let before = tcgetattr(stdin()).context("Standard input is no terminal")?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Now, &raw).context("Cannot take over the terminal")?;
        let kind = std::env::var("TERM").unwrap_or_default();
        let mut out = stdout();
        execute!(out, terminal::DisableLineWrap, cursor::Hide)?;
        if kind == "linux" {
            // The kernel's own screen would go dark after ten minutes (console_codes(4)).
            out.write_all(b"\x1b[9;0]\x1b[14;0]")?;
            out.flush()?;
        }
        Ok(Self {
            backend: CrosstermBackend::new(BufWriter::with_capacity(32 * 1024, stdout())),
            shown: None,
            painted: Instant::now(),
            repaint_every: repaint_every(&kind),
            theme: theme(&kind),
            before,
        })
    }

    /// What it can do.
    #[must_use]
    pub fn theme(&self) -> Theme {
        self.theme
    }

    /// Sends what differs from what it shows; all of it once in a while, because kernel messages
    /// or a cable pulled and plugged may have spoilt the picture.
    ///
    /// # Errors
    /// If the terminal is gone.
    pub fn show(&mut self, frame: Buffer) -> anyhow::Result<()> {
        let old = self.shown.take().filter(|old| old.area == frame.area);
        let due = self.painted.elapsed() >= self.repaint_every;
        let blank = Buffer::empty(frame.area);
        match &old {
            Some(old) if !due => {
                let changes = old.diff(&frame);
                if !changes.is_empty() {
                    self.backend.draw(changes.into_iter())?;
                }
            }
            Some(_) => self.all(&frame)?,
            None => {
                queue!(self.backend, style::ResetColor, terminal::Clear(terminal::ClearType::All))?;
                self.backend.draw(blank.diff(&frame).into_iter())?;
                self.painted = Instant::now();
            }
        }
        Backend::flush(&mut self.backend)?;
        self.shown = Some(frame);
        Ok(())
    }

    /// Sends every cell without clearing first: no flicker, and stray text is overwritten.
    fn all(&mut self, frame: &Buffer) -> anyhow::Result<()> {
        let width = usize::from(frame.area.width).max(1);
        let cells = frame.content.iter().enumerate().filter_map(|(index, cell)| {
            let (x, y) = (u16::try_from(index % width).ok()?, u16::try_from(index / width).ok()?);
            Some((x, y, cell))
        });
        self.backend.draw(cells)?;
        self.painted = Instant::now();
        Ok(())
    }

    /// Forgets what it shows, so that the next frame is sent whole.
    pub fn forget(&mut self) {
        self.shown = None;
    }

    /// Its size.
    #[must_use]
    pub fn size(&self) -> (u16, u16) {
        sane(tcgetwinsize(stdout()).map_or((0, 0), |size| (size.ws_col, size.ws_row)))
    }

    /// Waits for keys, at most so long. No bytes means that none came.
    ///
    /// # Errors
    /// If the terminal is gone.
    pub fn keys(&self, wait: Duration) -> anyhow::Result<Vec<u8>> {
        let stdin = stdin();
        let mut fds = [PollFd::new(&stdin, PollFlags::IN)];
        let wait = Timespec::try_from(wait).context("Cannot wait for so long")?;
        match poll(&mut fds, Some(&wait)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(Vec::new()),
            Ok(_) => (),
            Err(error) => return Err(error).context("Cannot wait for keys"),
        }
        let mut buffer = [0; KEYS_MAX];
        match rustix::io::read(&stdin, &mut buffer) {
            Ok(0) => bail!("The terminal is gone"),
            Ok(count) => Ok(buffer[..count].to_vec()),
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => Ok(Vec::new()),
            Err(error) => Err(error).context("The terminal is gone"),
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // The terminal may be gone; nothing is left to be done about it then.
        let _ = execute!(
            stdout(),
            style::ResetColor,
            terminal::Clear(terminal::ClearType::All),
            cursor::MoveTo(0, 0),
            terminal::EnableLineWrap,
            cursor::Show
        );
        let _ = tcsetattr(stdin(), OptionalActions::Now, &self.before);
    }
}

/// Makes a path the standard input and output, as a getty does.
///
/// # Errors
/// If it cannot be opened for both.
pub fn attach(tty: &Path) -> anyhow::Result<()> {
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(tty)
        .with_context(|| format!("Cannot open {}", tty.display()))?;
    rustix::stdio::dup2_stdin(&file).context("Cannot make it the standard input")?;
    rustix::stdio::dup2_stdout(&file).context("Cannot make it the standard output")
}

/// A size fit to draw at: each side that is not told, or absurd, is replaced.
#[must_use]
pub fn sane((columns, rows): (u16, u16)) -> (u16, u16) {
    if columns == 0 || rows == 0 {
        return SIZE_DEFAULT;
    }
    (columns.min(SIZE_MAX.0), rows.min(SIZE_MAX.1))
}

/// A screen costs nothing to send again; a serial line of 9600 baud needs two seconds for it.
fn repaint_every(kind: &str) -> Duration {
    Duration::from_secs(if kind == "linux" { 10 } else { 60 })
}

fn theme(kind: &str) -> Theme {
    let modern = ["linux", "xterm", "screen", "tmux"].iter().any(|name| kind.starts_with(name));
    let colour = modern && std::env::var_os("NO_COLOR").is_none();
    Theme { lines: modern, colour }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_that_tells_no_size_is_80_by_24() {
        assert_eq!(sane((0, 0)), (80, 24));
        assert_eq!(sane((132, 0)), (80, 24));
        assert_eq!(sane((100, 30)), (100, 30));
        assert_eq!(sane((u16::MAX, u16::MAX)), SIZE_MAX);
    }

    #[test]
    fn a_serial_terminal_gets_ascii_without_colour() {
        assert_eq!(theme("vt220"), Theme::PLAIN);
        assert_eq!(theme(""), Theme::PLAIN);
        assert!(theme("linux").lines);
    }
}
