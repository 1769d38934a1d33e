// SPDX-License-Identifier: Apache-2.0
//! The recovery console: what a person on site sees on the server's screen and serial line.
//!
//! It draws from state files alone, so that it still tells the truth when the agent is dead, the
//! network is down or neither ever came up.
//!
//! ```text
//!  files -> source -> facts -> screen (events in, actions out) -> view -> term -> tty
//!                      |                                           ^
//!                      +------------------ advice -----------------+
//! ```
//!
//! Everything between `facts` and `view` is pure.

pub mod advice;
pub mod facts;
pub mod input;
pub mod machine;
pub mod screen;
pub mod source;
pub mod term;
pub mod text;
pub mod view;
pub mod words;
