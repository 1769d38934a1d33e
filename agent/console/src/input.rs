// SPDX-License-Identifier: Apache-2.0
//! From the bytes a terminal sends to keys, whatever the bytes.
//!
//! A serial line carries noise, half sequences and pastes. So every state here ends after a few
//! bytes or at a pause, and no sequence can make the keyboard deaf.
//!
//! ```text
//!  Ground --ESC--> Escape --[--> Csi --[--> Linux (F1 is ESC [ [ A)
//!    ^               |  `---O--> Ss3
//!    `--- final byte, too long, or a pause ---'
//! ```

use crate::screen::Key;

/// Longest sequence any terminal sends for a key.
const SEQUENCE_MAX: usize = 12;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Ground,
    Escape,
    Csi,
    Ss3,
    Linux,
}

/// Turns bytes into keys.
#[derive(Debug, Default)]
pub struct Decoder {
    state: State,
    parameters: Vec<u8>,
}

impl Decoder {
    /// Takes a byte; a key may be complete with it.
    pub fn byte(&mut self, byte: u8) -> Option<Key> {
        if byte == 0x1b {
            let before = std::mem::replace(&mut self.state, State::Escape);
            self.parameters.clear();
            return (before == State::Escape).then_some(Key::Escape);
        }
        match self.state {
            State::Ground => Some(plain(byte)),
            State::Escape => match byte {
                b'[' => self.go(State::Csi),
                b'O' => self.go(State::Ss3),
                _ => self.end(Key::Other),
            },
            State::Csi => self.csi(byte),
            State::Ss3 => self.end(match byte {
                b'P'..=b'S' => Key::F(byte - b'P' + 1),
                b'A' => Key::Up,
                b'B' => Key::Down,
                _ => Key::Other,
            }),
            State::Linux => self.end(match byte {
                b'A'..=b'E' => Key::F(byte - b'A' + 1),
                _ => Key::Other,
            }),
        }
    }

    /// Whether no sequence has begun.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.state == State::Ground
    }

    /// Nothing came for a while: what was begun is over. An escape alone is the Escape key.
    pub fn pause(&mut self) -> Option<Key> {
        let before = std::mem::take(&mut self.state);
        self.parameters.clear();
        (before == State::Escape).then_some(Key::Escape)
    }

    fn go(&mut self, state: State) -> Option<Key> {
        self.state = state;
        None
    }

    fn end(&mut self, key: Key) -> Option<Key> {
        self.state = State::Ground;
        self.parameters.clear();
        Some(key)
    }

    fn csi(&mut self, byte: u8) -> Option<Key> {
        match byte {
            b'[' if self.parameters.is_empty() => self.go(State::Linux),
            b' '..=b'?' if self.parameters.len() < SEQUENCE_MAX => {
                self.parameters.push(byte);
                None
            }
            b'A' => self.end(Key::Up),
            b'B' => self.end(Key::Down),
            b'P'..=b'S' => self.end(Key::F(byte - b'P' + 1)),
            b'~' => {
                let key = numbered(&self.parameters);
                self.end(key)
            }
            // A final byte of no use here, a sequence too long, or no sequence at all.
            _ => self.end(Key::Other),
        }
    }
}

fn plain(byte: u8) -> Key {
    match byte {
        b'\r' | b'\n' => Key::Enter,
        0x08 | 0x7f => Key::Backspace,
        // Ctrl-L, by custom "draw again".
        0x0c => Key::Char('r'),
        b' '..=b'~' => Key::Char(char::from(byte)),
        _ => Key::Other,
    }
}

fn numbered(parameters: &[u8]) -> Key {
    match parameters {
        b"11" => Key::F(1),
        b"12" => Key::F(2),
        b"13" => Key::F(3),
        b"14" => Key::F(4),
        b"3" => Key::Backspace,
        b"5" => Key::Up,
        b"6" => Key::Down,
        _ => Key::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn keys(bytes: &[u8]) -> Vec<Key> {
        let mut decoder = Decoder::default();
        let mut keys: Vec<Key> = bytes.iter().filter_map(|byte| decoder.byte(*byte)).collect();
        keys.extend(decoder.pause());
        keys
    }

    #[test]
    fn function_keys_of_all_common_terminals_are_known() {
        for f1 in [&b"\x1bOP"[..], b"\x1b[[A", b"\x1b[11~", b"\x1b[P"] {
            assert_eq!(keys(f1), [Key::F(1)], "{f1:?}");
        }
        assert_eq!(keys(b"\x1b[14~"), [Key::F(4)]);
        assert_eq!(keys(b"\x1b[B\x1bOA\x1b[6~"), [Key::Down, Key::Up, Key::Down]);
    }

    #[test]
    fn an_escape_alone_is_the_escape_key() {
        assert_eq!(keys(b"\x1b"), [Key::Escape]);
        assert_eq!(keys(b"\x1b\x1b"), [Key::Escape, Key::Escape]);
    }

    #[test]
    fn keys_that_end_other_programs_are_just_keys() {
        assert_eq!(keys(b"\x03\x1a\x1c\x04\x13"), [Key::Other; 5]);
    }

    #[test]
    fn the_start_of_a_paste_does_not_swallow_what_follows() {
        assert_eq!(keys(b"\x1b[200~2"), [Key::Other, Key::Char('2')]);
    }

    proptest! {
        /// Whatever came before, a key pressed after a pause is that key.
        #[test]
        fn no_bytes_make_the_keyboard_deaf(noise in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut decoder = Decoder::default();
            for byte in noise {
                decoder.byte(byte);
            }
            decoder.pause();
            prop_assert_eq!(decoder.byte(b'2'), Some(Key::Char('2')));
        }

        /// Even without a pause, a sequence takes no more than its share of what follows.
        #[test]
        fn a_sequence_without_an_end_is_cut(digits in 1usize..200) {
            let mut decoder = Decoder::default();
            decoder.byte(0x1b);
            decoder.byte(b'[');
            let keys = (0..digits).filter_map(|_| decoder.byte(b'7')).count();
            prop_assert!(digits - keys <= SEQUENCE_MAX);
        }
    }
}
