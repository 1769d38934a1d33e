// SPDX-License-Identifier: Apache-2.0
//! One module for each noun.

mod blueprint;
mod bmc;
mod bundle;
mod events;
mod keys;
mod server;
mod site;
mod template;
mod witness;

use crate::api::Hq;
use crate::args::{Args, Noun};
use crate::error::Outcome;

/// Carries out one command.
pub async fn run(args: Args) -> Outcome<()> {
    let to = args.connection;
    match args.noun {
        Noun::Keys(what) => keys::run(&to, what).await,
        Noun::Template(what) => template::run(&to, what).await,
        Noun::Blueprint(what) => blueprint::run(&Hq::new(&to)?, what).await,
        Noun::Site(what) => site::run(&Hq::new(&to)?, what).await,
        Noun::Server(what) => server::run(&to, what).await,
        Noun::Events(what) => events::run(&Hq::new(&to)?, what).await,
        Noun::Witness(what) => witness::run(&Hq::new(&to)?, what).await,
        Noun::OwnerBundle(what) => bundle::write(&Hq::new(&to)?, &what).await,
    }
}
