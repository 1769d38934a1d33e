// SPDX-License-Identifier: Apache-2.0
//! Text that is safe to send to a terminal, and the few ways to cut and word it.
//!
//! Whatever comes out of a file is turned into [`Clean`] at the border: printable ASCII only, so
//! that no escape sequence, control character, double-width or right-to-left text from a template,
//! a host name or a log line can move the cursor, recolour the screen or reverse a word.

use std::fmt;

/// Characters kept of one text; far more than any screen shows of it.
const CLEAN_CHARS_MAX: usize = 600;

/// Printable ASCII, at most [`CLEAN_CHARS_MAX`] characters, without leading or trailing blanks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Clean(String);

impl Clean {
    /// Neutralizes a text: common Latin letters are spelled in ASCII, blanks become spaces, and
    /// anything else becomes `?`, so that a reader sees that something was there.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let mut out = String::new();
        for c in text.trim().chars().take(CLEAN_CHARS_MAX) {
            match c {
                ' '..='~' => out.push(c),
                '\t' | '\n' | '\r' | '\u{a0}' => out.push(' '),
                _ => out.push_str(spelled(c)),
            }
        }
        out.truncate(CLEAN_CHARS_MAX);
        Self(out.trim_end().to_owned())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The text, or another where there is none.
    #[must_use]
    pub fn or<'a>(&'a self, other: &'a str) -> &'a str {
        if self.0.is_empty() { other } else { &self.0 }
    }
}

impl fmt::Display for Clean {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl From<&str> for Clean {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

fn spelled(c: char) -> &'static str {
    match c {
        'ä' | 'æ' => "ae",
        'ö' | 'œ' => "oe",
        'ü' => "ue",
        'Ä' | 'Æ' => "Ae",
        'Ö' | 'Œ' => "Oe",
        'Ü' => "Ue",
        'ß' => "ss",
        'à'..='å' => "a",
        'À'..='Å' => "A",
        'è'..='ë' => "e",
        'È'..='Ë' => "E",
        'ì'..='ï' => "i",
        'ò'..='ø' => "o",
        'ù'..='û' => "u",
        'ç' => "c",
        'ñ' => "n",
        '‐'..='―' => "-",
        '‘' | '’' => "'",
        '“' | '”' | '„' | '«' | '»' => "\"",
        '…' => "...",
        '→' => "->",
        '·' | '•' => "*",
        '×' => "x",
        '°' => " deg",
        _ => "?",
    }
}

/// Cuts a text to `width` columns; a cut is shown by `..` at its end.
#[must_use]
pub fn clip(text: &str, width: usize) -> String {
    if text.len() <= width {
        return text.to_owned();
    }
    let mark = if width > 2 { ".." } else { "" };
    let kept: String = text.chars().take(width - mark.len()).collect();
    format!("{}{mark}", kept.trim_end())
}

/// Breaks a text at blanks into at most `rows` lines of `width` columns; the last one is clipped.
#[must_use]
pub fn wrap(text: &str, width: usize, rows: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    if rows > 0 && lines.len() > rows {
        // The last line takes all that is left, so that the clip shows that there was more.
        let rest = lines.split_off(rows - 1).join(" ");
        lines.push(rest);
    }
    lines.iter().map(|line| clip(line, width)).collect()
}

/// An age in words that change seldom, so that a quiet screen stays quiet.
#[must_use]
pub fn age(seconds: u64) -> String {
    match seconds {
        0..=14 => "just now".to_owned(),
        15..=59 => format!("{} s ago", seconds / 10 * 10),
        _ => format!("{} ago", span(seconds)),
    }
}

/// A length of time in its one or two greatest units.
#[must_use]
pub fn span(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..=59 => format!("{seconds} s"),
        60..=3_599 => format!("{minutes} min"),
        3_600..=86_399 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

/// A size in the unit people use for disks.
#[must_use]
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes;
    let mut unit = 0;
    while value >= 10_240 && unit + 1 < UNITS.len() {
        value /= 1024;
        unit += 1;
    }
    format!("{value} {}", UNITS[unit])
}

/// Time of day (UTC) of a wall-clock time in milliseconds since 1970.
#[must_use]
pub fn time_of_day(at_ms: u64) -> String {
    let second = at_ms / 1000 % 86_400;
    format!("{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)
}

/// Date and time (UTC) of a wall-clock time in milliseconds since 1970.
#[must_use]
pub fn date_time(at_ms: u64) -> String {
    // Civil date from days since 1970, in eras of 400 years that begin on 1 March.
    let days = (at_ms / 86_400_000).min(3_000_000) + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02} {}", time_of_day(at_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_printable_ascii_survives() {
        let hostile = "a\u{1b}[2Jb\u{7}\u{9b}31m\u{202e}gpj.exe\u{0}\u{200b}\u{1f4a9}日本";
        let clean = Clean::new(hostile);
        assert!(clean.as_str().bytes().all(|b| (b' '..=b'~').contains(&b)), "{clean:?}");
        assert_eq!(clean.as_str(), "a?[2Jb??31m?gpj.exe?????");
    }

    #[test]
    fn latin_letters_are_spelled_and_blanks_become_spaces() {
        assert_eq!(Clean::new(" Köln\n„Süd“ – naïve\t ").as_str(), "Koeln \"Sued\" - naive");
    }

    #[test]
    fn an_endless_text_is_cut() {
        assert_eq!(Clean::new(&"ä".repeat(5_000_000)).as_str().len(), CLEAN_CHARS_MAX);
    }

    #[test]
    fn wrapping_keeps_to_its_rows_and_shows_a_cut() {
        assert_eq!(wrap("one two three", 7, 3), ["one two", "three"]);
        assert_eq!(wrap("one two three four", 7, 2), ["one two", "three.."]);
        assert_eq!(wrap("one two three", 9, 1), ["one two.."]);
        assert_eq!(wrap(&"x".repeat(50), 10, 2), ["xxxxxxxx.."]);
        assert!(wrap("", 10, 2).is_empty());
    }

    #[test]
    fn clipping_never_exceeds_the_width() {
        for width in 0..12 {
            assert!(clip("abcdefghijkl mnop", width).len() <= width);
        }
    }

    #[test]
    fn dates_agree_with_the_calendar() {
        assert_eq!(date_time(0), "1970-01-01 00:00:00");
        assert_eq!(date_time(951_782_399_000), "2000-02-28 23:59:59");
        assert_eq!(date_time(951_782_400_000), "2000-02-29 00:00:00");
        assert_eq!(date_time(1_795_305_599_000), "2026-11-21 23:59:59");
        assert!(!date_time(u64::MAX).is_empty());
    }

    #[test]
    fn ages_of_a_quiet_screen_do_not_tick() {
        assert_eq!(age(3), age(9));
        assert_eq!(age(31), "30 s ago");
        assert_eq!(age(7_300), "2 h 1 min ago");
        assert_eq!(span(200_000), "2 d 7 h");
        assert_eq!(size(21_474_836_480), "20 GiB");
    }
}
