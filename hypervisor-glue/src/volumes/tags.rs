// SPDX-License-Identifier: Apache-2.0
//! What a volume is, written in its LVM tags.

use super::VolumeId;
use provisioning_protocol::ids::{DiskName, TemplateName, VmName};
use provisioning_protocol::template::{TemplateRef, TemplateVersion};
use std::collections::BTreeMap;

/// What a volume is and what size it shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tags {
    pub kind: Kind,
    /// The image's or the guest's exact size.
    pub bytes: u64,
}

/// Template or VM disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Template(TemplateRef),
    Disk { vm: VmName, disk: DiskName, template: Option<TemplateRef> },
}

impl Tags {
    /// As LVM tags.
    pub fn words(&self) -> Vec<String> {
        let template = |template: &TemplateRef| {
            [format!("fc.tpl={}", template.name), format!("fc.version={}", template.version)]
        };
        let mut words = vec![format!("fc.bytes={}", self.bytes)];
        match &self.kind {
            Kind::Template(of) => words.extend(template(of)),
            Kind::Disk { vm, disk, template: of } => {
                words.extend([format!("fc.vm={vm}"), format!("fc.disk={disk}")]);
                words.extend(of.iter().flat_map(template));
            }
        }
        words
    }

    /// From LVM's comma-separated list; `None` if the volume is not one of ours.
    pub fn parse(list: &str) -> Option<Self> {
        let map: BTreeMap<&str, &str> =
            list.split(',').filter_map(|tag| tag.trim().split_once('=')).collect();
        let bytes = map.get("fc.bytes")?.parse().ok()?;
        let template = match (map.get("fc.tpl"), map.get("fc.version")) {
            (Some(name), Some(version)) => Some(TemplateRef {
                name: TemplateName::new(*name).ok()?,
                version: TemplateVersion(version.parse().ok()?),
            }),
            _ => None,
        };
        let kind = match (map.get("fc.vm"), map.get("fc.disk")) {
            (Some(vm), Some(disk)) => Kind::Disk {
                vm: VmName::new(*vm).ok()?,
                disk: DiskName::new(*disk).ok()?,
                template,
            },
            _ => Kind::Template(template?),
        };
        Some(Self { kind, bytes })
    }

    /// Whether the volume is the one named.
    pub fn is(&self, volume: &VolumeId) -> bool {
        match (&self.kind, volume) {
            (Kind::Template(own), VolumeId::Template(named)) => own == named,
            (Kind::Disk { vm, disk, .. }, VolumeId::Disk(named_vm, named_disk)) => {
                vm == named_vm && disk == named_disk
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template() -> TemplateRef {
        TemplateRef {
            name: TemplateName::new("parts-counter").expect("valid"),
            version: TemplateVersion(7),
        }
    }

    #[test]
    fn tags_survive_the_round_trip_in_any_order() {
        let disk = |template| Kind::Disk {
            vm: VmName::new("a-b").expect("valid"),
            disk: DiskName::new("c").expect("valid"),
            template,
        };
        for kind in [Kind::Template(template()), disk(None), disk(Some(template()))] {
            let tags = Tags { kind, bytes: 4096 };
            let mut words = tags.words();
            words.reverse();
            words.push("foreign".to_owned());
            assert_eq!(Tags::parse(&words.join(",")), Some(tags));
        }
    }

    #[test]
    fn volumes_without_our_tags_are_not_ours() {
        for list in ["", "other", "fc.bytes=x,fc.tpl=a,fc.version=1", "fc.bytes=1", "fc.tpl=a"] {
            assert_eq!(Tags::parse(list), None, "{list}");
        }
    }
}
