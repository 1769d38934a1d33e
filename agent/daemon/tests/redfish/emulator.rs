// SPDX-License-Identifier: Apache-2.0
//! A Redfish service that others wrote (sushy-tools), whose power switch starts and kills a real QEMU.
//! `tests/redfish/run` says which Python has it.

use crate::fake::Own;
use agent_daemon::bmc::redfish::{BmcError, Power, Redfish};
use provisioning_protocol::bmc::Bmc;
use provisioning_protocol::desired::Secret;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const START_LIMIT: Duration = Duration::from_secs(60);

struct Emulator {
    dir: TempDir,
    own: Own,
    at: SocketAddr,
    child: Child,
}

impl Emulator {
    fn start() -> Self {
        let python =
            std::env::var_os("FORECOURT_REDFISH_PYTHON").expect("run by tests/redfish/run");
        let (dir, own) = (TempDir::new().expect("folder"), Own::new());
        std::fs::write(dir.path().join("cert.pem"), &own.cert_pem).expect("certificate");
        std::fs::write(dir.path().join("key.pem"), &own.key_pem).expect("key");
        let at = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("port");
        let script =
            PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/redfish/emulator.py");
        let log = std::fs::File::create(dir.path().join("log")).expect("log");
        let mut command = Command::new(python);
        command.arg(script).arg(dir.path()).arg(at.port().to_string());
        command.stdout(log.try_clone().expect("log")).stderr(log);
        let mut emulator = Self { child: command.spawn().expect("Python starts"), dir, own, at };
        emulator.wait();
        emulator
    }

    fn wait(&mut self) {
        let end = Instant::now() + START_LIMIT;
        while TcpStream::connect(self.at).is_err() {
            let gone = self.child.try_wait().expect("child").is_some();
            assert!(!gone && Instant::now() < end, "{}", self.log());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Whether the machine's process runs (a dead one not yet waited for does not).
    fn machine_runs(&self) -> bool {
        let pid = std::fs::read_to_string(self.dir.path().join("machine.pid")).expect("pid");
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        !stat.is_empty() && !stat.contains(") Z ")
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        if let Ok(pid) = std::fs::read_to_string(self.dir.path().join("machine.pid")) {
            drop(
                Command::new("kill")
                    .args(["-9", &pid])
                    .stderr(std::process::Stdio::null())
                    .status(),
            );
        }
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[tokio::test]
#[ignore = "needs sushy-tools and QEMU: tests/redfish/run"]
async fn a_real_redfish_service_switches_a_real_machine() {
    let emulator = Emulator::start();
    let client = Redfish::new(&emulator.own.bmc(emulator.at)).expect("client");
    assert_eq!(client.look().await.expect("power"), Power::Off);
    client.on().await.expect("on");
    assert!(emulator.machine_runs(), "{}", emulator.log());
    let start = Instant::now();
    client.off().await.expect("off");
    println!("off and read back twice: {:?}", start.elapsed());
    assert!(!emulator.machine_runs(), "said off while the machine runs");
    client.off().await.expect("off already");
    client.on().await.expect("on again");
    assert_eq!(client.look().await.expect("power"), Power::Other("On".into()));
    assert!(emulator.machine_runs());
}

#[tokio::test]
#[ignore = "needs sushy-tools and QEMU: tests/redfish/run"]
async fn a_real_redfish_service_refuses_a_wrong_password_and_another_certificate_is_refused() {
    let emulator = Emulator::start();
    let good = emulator.own.bmc(emulator.at);
    Redfish::new(&good).expect("client").on().await.expect("on");
    let wrong = Bmc { password: Secret("guess".into()), ..good.clone() };
    let result = Redfish::new(&wrong).expect("client").off().await;
    assert!(matches!(&result, Err(BmcError::Refused { status, .. }) if status.as_u16() == 401));
    let other = Bmc { fingerprint: "00".repeat(32), ..good };
    let result = Redfish::new(&other).expect("client").look().await;
    assert!(matches!(result, Err(BmcError::Unreachable { .. })), "{result:?}");
    assert!(emulator.machine_runs(), "{}", emulator.log());
}
