// SPDX-License-Identifier: Apache-2.0
//! What may be said on the command line.

use clap::{Args as Group, Parser, Subcommand, ValueEnum};
use provisioning_protocol::ids::{NodeSlot, SiteName};
use std::path::PathBuf;

/// Operate a Forecourt fleet.
#[derive(Parser)]
#[command(version, about, arg_required_else_help = true)]
pub struct Args {
    #[command(flatten)]
    pub connection: Connection,
    /// Print an error as one JSON object {kind, message, code, hints}
    #[arg(long, global = true)]
    pub json_errors: bool,
    #[command(subcommand)]
    pub noun: Noun,
}

/// How HQ is reached.
#[derive(Group, Clone)]
pub struct Connection {
    /// HQ's base URL
    #[arg(long, global = true, env = "FORECOURT_HQ", default_value = "https://127.0.0.1:8443")]
    pub hq: String,
    /// HQ's root CA, PEM: no other CA is trusted
    #[arg(long, global = true, env = "FORECOURT_CA", default_value = "root-ca.pem")]
    pub ca: PathBuf,
    /// File with the operator token
    #[arg(long, global = true, env = "FORECOURT_TOKEN", default_value = "operator.token")]
    pub token: PathBuf,
}

#[derive(Subcommand)]
pub enum Noun {
    /// The catalogue's offline keys
    #[command(subcommand)]
    Keys(Keys),
    /// VM templates
    #[command(subcommand)]
    Template(Template),
    /// Blueprints: the VMs a class of sites runs
    #[command(subcommand)]
    Blueprint(Blueprint),
    /// Sites, their claim codes and claim sticks
    #[command(subcommand)]
    Site(Site),
    /// Servers
    #[command(subcommand)]
    Server(Server),
    /// What happened, newest last
    Events(Events),
    /// Witness records
    #[command(subcommand)]
    Witness(Witness),
    /// Write owner.json for claim sticks
    OwnerBundle(OwnerBundle),
}

#[derive(Subcommand)]
pub enum Keys {
    /// Make the offline keys and their root.json in a new folder
    Init {
        /// Folder for the keys
        #[arg(long)]
        dir: PathBuf,
        /// HQ's tuf-online.json, to work without a connection; else HQ is asked
        #[arg(long)]
        online: Option<PathBuf>,
    },
    /// Let HQ trust the root.json of a key folder
    Trust {
        /// Folder with the keys
        #[arg(long)]
        dir: PathBuf,
    },
    /// Show which roots the key folder and HQ have
    Status {
        /// Folder with the keys
        #[arg(long)]
        dir: PathBuf,
        #[arg(long)]
        json: bool,
    },
}

#[derive(Subcommand)]
pub enum Template {
    /// Cut a template folder's images into chunks and write its manifest
    Build {
        /// Folder with template.yaml and its images
        folder: PathBuf,
        /// Folder to build into; kept between builds, it saves work
        #[arg(long)]
        out: PathBuf,
    },
    /// Sign a built template with the offline keys
    Sign {
        /// Folder that `template build` wrote
        build: PathBuf,
        /// Folder with the keys
        #[arg(long)]
        keys: PathBuf,
        /// HQ's present targets.json, to work without a connection; else HQ is asked
        #[arg(long, conflicts_with = "first")]
        current: Option<PathBuf>,
        /// There is nothing published yet; HQ is not asked
        #[arg(long)]
        first: bool,
    },
    /// Send a signed template to HQ
    Publish {
        /// Folder that `template build` wrote and `template sign` signed
        build: PathBuf,
    },
    /// List published templates
    List {
        #[arg(long)]
        json: bool,
    },
    /// Show a published template, as NAME or NAME@VERSION
    Show {
        name: String,
        #[arg(long)]
        json: bool,
    },
}

#[derive(Subcommand)]
pub enum Blueprint {
    /// Make or change a blueprint; its sites follow at once
    Apply {
        /// YAML file
        file: PathBuf,
    },
    /// List blueprints
    List {
        #[arg(long)]
        json: bool,
    },
}

/// Where claim sticks' files go.
#[derive(Group)]
pub struct Sticks {
    /// Write each stick's files to DIR/A and DIR/B
    #[arg(long, value_name = "DIR")]
    pub sticks: Option<PathBuf>,
    #[command(flatten)]
    pub bundle: Bundle,
}

/// What owner.json says.
#[derive(Group)]
pub struct Bundle {
    /// HQ's base URL as servers see it; may be repeated; else those given at HQ's init
    #[arg(long = "url")]
    pub urls: Vec<String>,
    /// The catalogue's root.json; else HQ's copy
    #[arg(long)]
    pub tuf_root: Option<PathBuf>,
}

#[derive(Subcommand)]
pub enum Site {
    /// Create a site and show its claim codes, once
    Create {
        /// YAML file
        file: PathBuf,
        #[command(flatten)]
        sticks: Sticks,
        #[arg(long)]
        json: bool,
    },
    /// List sites
    List {
        #[arg(long)]
        json: bool,
    },
    /// Show a site
    Show {
        name: SiteName,
        #[arg(long)]
        json: bool,
    },
    /// Let the other server of the pair switch this one's power by its BMC (Redfish)
    Bmc {
        name: SiteName,
        /// The server whose BMC it is
        #[arg(value_parser = slot)]
        slot: NodeSlot,
        #[command(flatten)]
        options: BmcOptions,
    },
    /// Move all VMs to the other server, one after the other, and keep this one empty
    Drain {
        name: SiteName,
        #[arg(value_parser = slot)]
        slot: NodeSlot,
    },
    /// Let a drained server run VMs again
    Undrain {
        name: SiteName,
        #[arg(value_parser = slot)]
        slot: NodeSlot,
    },
    /// Whether VMs go back to their home servers after ten minutes without trouble
    Rebalance {
        name: SiteName,
        #[arg(value_enum)]
        to: Switch,
    },
    /// Issue new claim codes for the empty places of a site; older codes become void
    Claims {
        name: SiteName,
        #[command(flatten)]
        sticks: Sticks,
        #[arg(long)]
        json: bool,
    },
}

/// How a BMC is reached; all of it, or `--remove`.
#[derive(Group)]
pub struct BmcOptions {
    /// https://HOST or https://HOST:PORT of the BMC
    #[arg(long, required_unless_present = "remove")]
    pub url: Option<String>,
    /// An account of the BMC that may switch power
    #[arg(long, required_unless_present = "remove")]
    pub user: Option<String>,
    /// File with its password
    #[arg(long, required_unless_present = "remove")]
    pub password_file: Option<PathBuf>,
    /// SHA-256 of the BMC's certificate, as `openssl x509 -noout -fingerprint -sha256` prints it
    #[arg(long, required_unless_present = "remove")]
    pub fingerprint: Option<String>,
    /// Path of the system, if the BMC serves several
    #[arg(long)]
    pub system: Option<String>,
    /// Use this server's BMC no more
    #[arg(long, conflicts_with_all = ["url", "user", "password_file", "fingerprint", "system"])]
    pub remove: bool,
}

/// On or off.
#[derive(Clone, Copy, ValueEnum)]
pub enum Switch {
    On,
    Off,
}

#[derive(Subcommand)]
pub enum Server {
    /// List servers
    List {
        /// Only this site's
        #[arg(long)]
        site: Option<SiteName>,
        #[arg(long)]
        json: bool,
    },
    /// Take a server out of service: it may not speak to HQ any more, and its place is free
    Retire {
        site: SiteName,
        #[arg(value_parser = slot)]
        slot: NodeSlot,
        /// Say that you mean it
        #[arg(long)]
        destructive: bool,
    },
}

#[derive(Group)]
pub struct Events {
    /// Only this site's
    #[arg(long)]
    pub site: Option<SiteName>,
    /// How many at most, up to 500
    #[arg(long, default_value_t = 50)]
    pub limit: u32,
    /// Go on until interrupted
    #[arg(long)]
    pub follow: bool,
    /// One JSON object a line
    #[arg(long)]
    pub json: bool,
}

#[derive(Subcommand)]
pub enum Witness {
    /// Show a site's witness record at HQ
    Show {
        site: SiteName,
        #[arg(long)]
        json: bool,
    },
    /// Get a claim code for a witness on site: a new one, or the same again to renew or move it
    Box {
        site: SiteName,
        /// Where the box listens: a fixed address on the site's LAN, and a port
        #[arg(long)]
        address: std::net::SocketAddr,
        #[arg(long)]
        json: bool,
    },
    /// Take a site's witness on site out of service
    BoxRemove {
        site: SiteName,
        /// Say that you mean it
        #[arg(long)]
        destructive: bool,
    },
}

#[derive(Group)]
pub struct OwnerBundle {
    /// File to write
    #[arg(long)]
    pub out: PathBuf,
    #[command(flatten)]
    pub bundle: Bundle,
}

fn slot(text: &str) -> Result<NodeSlot, String> {
    match text {
        "A" | "a" => Ok(NodeSlot::A),
        "B" | "b" => Ok(NodeSlot::B),
        other => Err(format!("\"{other}\" is no place of a pair: A or B")),
    }
}

#[cfg(test)]
mod tests {
    use super::Args;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Args::command().debug_assert();
    }
}
