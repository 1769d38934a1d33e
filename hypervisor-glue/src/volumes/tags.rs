// SPDX-License-Identifier: Apache-2.0
//! What a volume is, written in its LVM tags.

use super::{Keep, VolumeId};
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

/// Template, VM disk, or a copy kept of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Template(TemplateRef),
    Disk { vm: VmName, disk: DiskName, template: Option<TemplateRef> },
    Kept { keep: Keep, state: KeptState },
}

/// What has become of a kept copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeptState {
    /// Just made: it is not known yet whether the disk was still whole then.
    Unproven,
    /// Whole.
    Whole,
    /// Whole, and the disk was put back to it.
    Used,
}

impl KeptState {
    pub fn word(self) -> &'static str {
        match self {
            Self::Unproven => "unproven",
            Self::Whole => "whole",
            Self::Used => "used",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        [Self::Unproven, Self::Whole, Self::Used].into_iter().find(|state| state.word() == word)
    }
}

/// The tag that says what has become of a kept copy.
pub(super) fn state_tag(state: KeptState) -> String {
    format!("fc.kept={}", state.word())
}

impl Tags {
    /// As LVM tags.
    pub fn words(&self) -> Vec<String> {
        let template = |template: &TemplateRef| {
            [format!("fc.tpl={}", template.name), format!("fc.version={}", template.version)]
        };
        // Other names than those of a disk: an older agent must not take the copy for one.
        if let Kind::Kept { keep, state } = &self.kind {
            return vec![
                state_tag(*state),
                format!("fc.kept-vm={}", keep.vm),
                format!("fc.kept-disk={}", keep.disk),
                format!("fc.kept-ms={}", keep.taken_ms),
                format!("fc.kept-holds-ms={}", keep.holds_ms),
                format!("fc.kept-epoch={}", keep.epoch),
                format!("fc.kept-cause={}", keep.cause.word()),
                format!("fc.kept-bytes={}", self.bytes),
            ];
        }
        let mut words = vec![format!("fc.bytes={}", self.bytes)];
        match &self.kind {
            Kind::Kept { .. } => {}
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
        if let Some(word) = map.get("fc.kept") {
            let keep = Keep {
                vm: VmName::new(*map.get("fc.kept-vm")?).ok()?,
                disk: DiskName::new(*map.get("fc.kept-disk")?).ok()?,
                taken_ms: map.get("fc.kept-ms")?.parse().ok()?,
                holds_ms: map.get("fc.kept-holds-ms")?.parse().ok()?,
                epoch: map.get("fc.kept-epoch")?.parse().ok()?,
                cause: super::KeepCause::parse(map.get("fc.kept-cause")?)?,
            };
            let state = KeptState::parse(word)?;
            let bytes = map.get("fc.kept-bytes")?.parse().ok()?;
            return Some(Self { kind: Kind::Kept { keep, state }, bytes });
        }
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
            (Kind::Kept { keep, .. }, VolumeId::Kept(named)) => keep.name() == *named,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::KeepCause;
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
            round_trip(&Tags { kind, bytes: 4096 });
        }
    }

    fn round_trip(tags: &Tags) {
        let mut words = tags.words();
        words.reverse();
        words.push("foreign".to_owned());
        assert_eq!(Tags::parse(&words.join(",")).as_ref(), Some(tags));
    }

    #[test]
    fn a_kept_copy_says_what_it_is_and_never_passes_for_a_disk() {
        for state in [KeptState::Unproven, KeptState::Whole, KeptState::Used] {
            let keep = Keep {
                vm: VmName::new("a-b").expect("valid"),
                disk: DiskName::new("c").expect("valid"),
                taken_ms: 1_795_340_467_000,
                holds_ms: 1_795_340_461_000,
                epoch: 7,
                cause: KeepCause::Parted,
            };
            let tags = Tags { kind: Kind::Kept { keep, state }, bytes: 4096 };
            round_trip(&tags);
            let words = tags.words();
            // What an agent from before there were kept copies looks for.
            for old in ["fc.bytes=", "fc.vm=", "fc.disk=", "fc.tpl="] {
                assert!(!words.iter().any(|word| word.starts_with(old)), "{words:?}");
            }
        }
    }

    #[test]
    fn volumes_without_our_tags_are_not_ours() {
        for list in ["", "other", "fc.bytes=x,fc.tpl=a,fc.version=1", "fc.bytes=1", "fc.tpl=a"] {
            assert_eq!(Tags::parse(list), None, "{list}");
        }
    }
}
