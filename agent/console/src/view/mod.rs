// SPDX-License-Identifier: Apache-2.0
//! From the console's state to a frame: pure, for any size.

mod dialog;
mod hardware;
mod lists;
mod overview;

use crate::advice::Level;
use crate::screen::{Dialog, Page, Screen};
use crate::text::clip;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};

/// Columns of a label and the blank after it.
const LABEL: usize = 15;

/// What the terminal can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Theme {
    /// Line-drawing characters rather than ASCII.
    pub lines: bool,
    /// Colour as an extra; nothing is said by colour alone.
    pub colour: bool,
}

impl Theme {
    /// What any terminal can do.
    pub const PLAIN: Self = Self { lines: false, colour: false };
}

/// How a row looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    Plain,
    Bold,
    Bar,
    Rule,
    Advice(Level),
}

/// One row of the screen. Its text is ASCII.
#[derive(Debug, Clone)]
struct Row {
    look: Look,
    text: String,
}

impl Row {
    fn plain(text: impl Into<String>) -> Self {
        Self { look: Look::Plain, text: text.into() }
    }

    fn bold(text: impl Into<String>) -> Self {
        Self { look: Look::Bold, text: text.into() }
    }

    fn blank() -> Self {
        Self::plain("")
    }

    /// A rule with a title in it.
    fn rule(title: &str) -> Self {
        Self { look: Look::Rule, text: title.to_owned() }
    }

    /// ` Label         text`; no label continues the row above.
    fn fact(label: &str, text: &str) -> Self {
        Self::plain(format!(" {label:<width$}{text}", width = LABEL))
    }
}

/// Draws the screen at a size.
#[must_use]
pub fn view(screen: &Screen, theme: Theme, columns: u16, rows: u16) -> Buffer {
    let area = Rect::new(0, 0, columns, rows);
    let mut frame = Buffer::empty(area);
    let (width, height) = (usize::from(columns), usize::from(rows));
    if width < 20 || height < 6 {
        let text = clip(&crate::advice::advice(&screen.facts).text, width);
        put(&mut frame, 0, &Row::plain(text), theme);
        return frame;
    }
    let inner = height - 2;
    let body = match &screen.dialog {
        Some(dialog) => dialog::rows(dialog, &screen.facts, width),
        None => match screen.page {
            Page::Overview => overview::rows(&screen.facts, width, inner),
            Page::Events => scrolled(lists::events(&screen.facts, width), screen.scroll, inner),
            Page::Hardware => scrolled(hardware::rows(&screen.facts, width), screen.scroll, inner),
            Page::Machines => scrolled(lists::vms(&screen.facts, width), screen.scroll, inner),
        },
    };
    put(&mut frame, 0, &title(screen, width), theme);
    for (index, row) in body.iter().take(inner).enumerate() {
        put(&mut frame, index + 1, row, theme);
    }
    put(&mut frame, height - 1, &keys(screen, width), theme);
    frame
}

/// The frame as text, a line a row, without blanks at the ends.
#[must_use]
pub fn to_text(frame: &Buffer) -> String {
    let width = usize::from(frame.area.width).max(1);
    let mut text = String::new();
    for row in frame.content.chunks(width) {
        let line: String = row.iter().map(|cell| cell.symbol()).collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn title(screen: &Screen, width: usize) -> Row {
    let status = screen.facts.status();
    let place = match status.map(|status| (&status.site, status.slot)) {
        Some((Some(site), Some(slot))) => format!("site {site}   server {slot}"),
        Some((Some(site), None)) => format!("site {site}"),
        Some(_) => "not enrolled yet".to_owned(),
        None => "site not known".to_owned(),
    };
    let left = clip(&format!(" Forecourt   {place}"), width.saturating_sub(18));
    let right = clip(&format!("image {} ", screen.facts.image.or("unknown")), width - left.len());
    Row { look: Look::Bar, text: format!("{left}{right:>pad$}", pad = width - left.len()) }
}

fn keys(screen: &Screen, width: usize) -> Row {
    let text = match &screen.dialog {
        Some(Dialog::Note(_)) => " Any key  Back".to_owned(),
        Some(_) => " Enter  Go on     Esc  Back, change nothing".to_owned(),
        None => {
            let pages = Page::ALL.iter().zip(1..).map(|(page, number)| {
                let mark = if *page == screen.page { '*' } else { ' ' };
                format!("{number} {}{mark}", page.name())
            });
            let pages: Vec<String> = pages.collect();
            let more = match screen {
                screen if screen.may_give_up() => "g Give up data",
                screen if screen.may_use_older() => "o Older data",
                screen if screen.may_declare() => "d Other is off",
                _ => "r Redraw",
            };
            format!(" {}  {more}  p Reboot", pages.join(" "))
        }
    };
    Row { look: Look::Bar, text: clip(&text, width) }
}

/// Rows under a heading that stays; the last row says how much there is below.
fn scrolled(rows: Vec<Row>, scroll: usize, height: usize) -> Vec<Row> {
    if rows.len() <= height {
        return rows;
    }
    let room = height - 1;
    let first = scroll.min(rows.len() - room);
    let below = rows.len() - room - first;
    let mut shown: Vec<Row> = rows.into_iter().skip(first).take(room).collect();
    let more = if below == 0 {
        " (end; Up for more)".into()
    } else {
        format!(" ({below} more lines; Down)")
    };
    shown.push(Row::plain(more));
    shown
}

fn put(frame: &mut Buffer, y: usize, row: &Row, theme: Theme) {
    let (Ok(y), width) = (u16::try_from(y), usize::from(frame.area.width)) else { return };
    let text = match row.look {
        Look::Rule => rule(&row.text, width, theme),
        Look::Bar => format!("{:<width$}", row.text),
        _ => clip(&row.text, width),
    };
    if y < frame.area.height {
        frame.set_stringn(0, y, text, width, style(row.look, theme));
    }
}

fn rule(title: &str, width: usize, theme: Theme) -> String {
    let dash = if theme.lines { "─" } else { "-" };
    if title.is_empty() {
        return dash.repeat(width);
    }
    let title = clip(title, width.saturating_sub(6));
    format!("{} {title} {}", dash.repeat(2), dash.repeat(width.saturating_sub(title.len() + 4)))
}

fn style(look: Look, theme: Theme) -> Style {
    let bold = Style::new().add_modifier(Modifier::BOLD);
    match look {
        Look::Plain | Look::Rule => Style::new(),
        Look::Bold => bold,
        Look::Bar => Style::new().add_modifier(Modifier::REVERSED),
        Look::Advice(level) if theme.colour => match level {
            Level::Well => bold.fg(Color::LightGreen),
            Level::Wait => bold,
            Level::Act => bold.fg(Color::LightYellow),
            Level::Alarm => bold.fg(Color::LightRed),
        },
        Look::Advice(_) => bold,
    }
}
