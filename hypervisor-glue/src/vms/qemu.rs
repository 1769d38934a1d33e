// SPDX-License-Identifier: Apache-2.0
//! QEMU's command line for a VM.

use super::{Accel, VmLaunch, disks, tap_name};
use provisioning_protocol::ids::SiteName;
use provisioning_protocol::template::{CpuModel, GuestFirmware};
use std::path::Path;

/// OVMF's code and the template of its variables, as Debian's `ovmf` package has them.
pub const OVMF_CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
/// See [`OVMF_CODE`].
pub const OVMF_VARS: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";
/// x86-64-v2 and AES. Under KVM it has the vendor of the server's own processor.
const PORTABLE_CPU: &str = "kvm64,-vme,+cx16,+lahf-lm,+popcnt,+pni,+ssse3,+sse4.1,+sse4.2,+aes";
/// Bytes of serial console kept in QEMU's memory.
pub const CONSOLE_BYTES: u32 = 65_536;

/// Where things of this VM are.
pub(super) struct Places<'a> {
    pub qemu: &'a str,
    pub qmp: &'a Path,
    pub seed: &'a Path,
    /// OVMF's variables, for a UEFI guest.
    pub vars: &'a Path,
    pub vhost: bool,
    /// Whether its memory comes from elsewhere.
    pub receives: bool,
}

/// The whole command line, program first: vCPUs stopped, a placeholder of `sizes[i]` bytes for
/// each disk.
pub(super) fn command_line(launch: &VmLaunch, sizes: &[u64], places: &Places<'_>) -> Vec<String> {
    let mut line = Line(vec![places.qemu.to_owned(), "-S".to_owned()]);
    machine(&mut line, launch);
    firmware(&mut line, launch, places);
    control(&mut line, places.qmp);
    for (index, (disk, size)) in launch.disks.iter().zip(sizes).enumerate() {
        let node = disks::node(index);
        for placeholder in disks::placeholder(index, *size) {
            line.add("-blockdev", placeholder);
        }
        // An error stops the VM instead of reaching the guest.
        line.add(
            "-device",
            format!(
                "virtio-blk-pci,drive={node},serial={},bootindex={},werror=stop,rerror=stop",
                escaped(&disk.serial),
                index + 1
            ),
        );
    }
    let seed = escaped(&places.seed.display().to_string());
    line.add("-blockdev", format!("driver=file,node-name=seed,filename={seed},read-only=on"));
    line.add("-device", "virtio-blk-pci,drive=seed,serial=cidata".to_owned());
    for nic in 0..launch.nics {
        let vhost = if places.vhost { "on" } else { "off" };
        line.add(
            "-netdev",
            format!(
                "tap,id=net{nic},ifname={},script=no,downscript=no,vhost={vhost}",
                tap_name(launch.index, nic)
            ),
        );
        let mac = mac(&launch.site, launch.index, nic);
        line.add("-device", format!("virtio-net-pci,netdev=net{nic},mac={mac},romfile="));
    }
    if places.receives {
        line.add("-incoming", "defer".to_owned());
    }
    line.0
}

struct Line(Vec<String>);

impl Line {
    fn add(&mut self, flag: &str, value: String) {
        self.0.extend([flag.to_owned(), value]);
    }
}

fn machine(line: &mut Line, launch: &VmLaunch) {
    line.0.extend(["-nodefaults", "-no-user-config"].map(str::to_owned));
    line.add("-name", format!("guest={},debug-threads=on", launch.name));
    line.add("-uuid", uuid(&launch.site, launch.name.as_str()));
    line.add("-machine", "q35".to_owned());
    let (accel, cpu) = match (launch.accel, launch.cpu) {
        (Accel::Kvm, CpuModel::Portable) => ("kvm", PORTABLE_CPU),
        (Accel::Kvm, CpuModel::Host) => ("kvm", "host"),
        (Accel::Tcg, _) => ("tcg,thread=multi,tb-size=256", "max"),
    };
    line.add("-accel", accel.to_owned());
    line.add("-cpu", cpu.to_owned());
    line.add("-smp", launch.cpus.to_string());
    line.add("-m", launch.memory_mib.to_string());
    line.add("-display", "none".to_owned());
    line.add("-rtc", "base=utc".to_owned());
    line.add(
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny".to_owned(),
    );
    line.add("-object", "rng-builtin,id=rng0".to_owned());
    line.add("-device", "virtio-rng-pci,rng=rng0".to_owned());
}

fn firmware(line: &mut Line, launch: &VmLaunch, places: &Places<'_>) {
    if launch.firmware == GuestFirmware::Uefi {
        line.add("-drive", format!("if=pflash,unit=0,format=raw,readonly=on,file={OVMF_CODE}"));
        let vars = escaped(&places.vars.display().to_string());
        line.add("-drive", format!("if=pflash,unit=1,format=raw,file={vars}"));
    }
    line.add("-boot", "strict=on".to_owned());
}

fn control(line: &mut Line, qmp: &Path) {
    let path = escaped(&qmp.display().to_string());
    line.add("-chardev", format!("socket,id=qmp,path={path},server=on,wait=off"));
    line.add("-mon", "chardev=qmp,mode=control".to_owned());
    line.add("-chardev", format!("ringbuf,id=console,size={CONSOLE_BYTES}"));
    line.add("-serial", "chardev:console".to_owned());
}

/// QEMU's option syntax: a comma in a value is written twice.
fn escaped(value: &str) -> String {
    value.replace(',', ",,")
}

/// FNV-1a, 128 bits: stable names, not secrets.
fn hash(parts: &[&str]) -> [u8; 16] {
    let mut hash: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    for part in parts {
        for byte in part.bytes().chain([0]) {
            hash ^= u128::from(byte);
            hash = hash.wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
        }
    }
    hash.to_be_bytes()
}

/// MAC address of a VM's NIC: locally administered, the same on both servers.
#[must_use]
pub fn mac(site: &SiteName, index: u32, nic: u32) -> String {
    let h = hash(&[site.as_str(), &index.to_string(), &nic.to_string()]);
    format!("52:54:{:02x}:{:02x}:{:02x}:{:02x}", h[0], h[5], h[10], h[15])
}

fn uuid(site: &SiteName, vm: &str) -> String {
    let mut h = hash(&[site.as_str(), vm]);
    h[6] = (h[6] & 0x0f) | 0x80;
    h[8] = (h[8] & 0x3f) | 0x80;
    let hex: String = h.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vms::{Seed, VmDisk};
    use provisioning_protocol::ids::VmName;

    fn launch(firmware: GuestFirmware, accel: Accel) -> VmLaunch {
        VmLaunch {
            name: VmName::new("parts-counter").expect("valid"),
            site: SiteName::new("dealer-1").expect("valid"),
            index: 3,
            firmware,
            cpu: CpuModel::Portable,
            cpus: 2,
            memory_mib: 512,
            disks: vec![
                VmDisk { path: "/dev/drbd0".into(), serial: "system".into() },
                VmDisk { path: "/dev/odd,name".into(), serial: "data,x=y".into() },
            ],
            nics: 2,
            seed: Seed::default(),
            accel,
        }
    }

    fn line(launch: &VmLaunch) -> String {
        let places = Places {
            qemu: "qemu",
            qmp: Path::new("/run/q"),
            seed: Path::new("/run/s"),
            vars: Path::new("/var/v"),
            vhost: false,
            receives: false,
        };
        command_line(launch, &[1 << 20, 2 << 20], &places).join(" ")
    }

    #[test]
    fn names_cannot_add_options() {
        let line = line(&launch(GuestFirmware::Bios, Accel::Kvm));
        assert!(line.contains("serial=data,,x=y,"), "{line}");
    }

    #[test]
    fn nothing_runs_and_no_volume_is_open_before_the_start() {
        let line = line(&launch(GuestFirmware::Bios, Accel::Kvm));
        assert!(line.starts_with("qemu -S ") && !line.contains("/dev/drbd"), "{line}");
        assert!(line.contains("null-co,node-name=disk1-empty,size=2097152"), "{line}");
        assert!(line.contains("virtio-blk-pci,drive=disk1,"), "{line}");
    }

    #[test]
    fn firmware_and_accelerator_are_as_asked() {
        let bios = line(&launch(GuestFirmware::Bios, Accel::Kvm));
        assert!(bios.contains("-accel kvm -cpu kvm64,") && !bios.contains("pflash"), "{bios}");
        let host = VmLaunch { cpu: CpuModel::Host, ..launch(GuestFirmware::Bios, Accel::Kvm) };
        assert!(line(&host).contains("-accel kvm -cpu host "));
        let uefi = line(&launch(GuestFirmware::Uefi, Accel::Tcg));
        assert!(uefi.contains("-cpu max") && uefi.contains("unit=1,format=raw,file=/var/v"));
    }

    #[test]
    fn every_nic_has_its_own_tap_and_mac_on_both_servers_alike() {
        let line = line(&launch(GuestFirmware::Bios, Accel::Kvm));
        assert!(line.contains("ifname=tap-vm3,") && line.contains("ifname=tap-vm3-1,"), "{line}");
        let site = SiteName::new("dealer-1").expect("valid");
        assert_ne!(mac(&site, 3, 0), mac(&site, 3, 1));
        assert_ne!(mac(&site, 3, 0), mac(&site, 4, 0));
        assert_eq!(mac(&site, 3, 0), mac(&site, 3, 0));
    }
}
