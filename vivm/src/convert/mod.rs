//! From a domain's XML to one that libvirt's qemu driver runs under xenner, with a report of what was
//! changed and why. A pure function of the text: no file is looked at, nothing is run.
//!
//! What stays is what libvirt and xenner take; the rules are those of xenner's command line (`xenner
//! -device help`) and of its answers to libvirt's questions.

mod console;
mod cpu;
mod device;
mod disk;
mod memory;
mod nic;
mod os;

#[cfg(test)]
mod tests;

use std::fmt;

use roxmltree::{Document, Node};

use crate::edits::{Edits, escaped};

/// What the new domain is to have.
#[derive(Debug, Clone, Default)]
pub struct Wishes {
    /// The path of xenner; none leaves the emulator as it is.
    pub emulator: Option<String>,
    /// `<kernel>`; none leaves the one that is there.
    pub kernel: Option<String>,
    /// `<initrd>`, in the same way.
    pub initrd: Option<String>,
    /// `<cmdline>`, in the same way.
    pub cmdline: Option<String>,
    /// GRUB's image for Xen, for a domain that would have no kernel.
    pub grub: Option<String>,
}

/// One thing that was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Which element, and what became of it.
    pub what: String,
    /// Why.
    pub why: String,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.what, self.why)
    }
}

/// One thing that stays as it was, because only the domain's owner can say what is to become of it;
/// xenner would not start the domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Which element.
    pub element: String,
    /// What is wrong with it, and the ways out.
    pub question: String,
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.element, self.question)
    }
}

/// A converted domain.
#[derive(Debug, Clone)]
pub struct Conversion {
    /// The document.
    pub xml: String,
    /// The domain's name.
    pub name: String,
    /// What was changed.
    pub changes: Vec<Change>,
    /// What has to be decided.
    pub decisions: Vec<Decision>,
}

/// Why a document is no domain that could be converted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// The parser's complaint.
    #[error("The XML is not well-formed; mend the place that is named")]
    Xml(#[from] roxmltree::Error),
    /// Another document.
    #[error("The document is <{found}>; a domain is <domain>, as virsh dumpxml prints it")]
    NotADomain {
        /// The root's name.
        found: String,
    },
    /// A container, or something else without a kernel of its own.
    #[error(
        "A domain of type '{kind}' is no virtual machine; convert one of the types kvm, qemu or xen"
    )]
    NotAMachine {
        /// The domain's type.
        kind: String,
    },
    /// Nothing to call it by.
    #[error("The domain has no name; add <name>")]
    NoName,
}

/// Types of domains that are virtual machines.
const MACHINES: [&str; 9] = [
    "kvm", "qemu", "xen", "hvf", "kqemu", "vmware", "hyperv", "vbox", "bhyve",
];

/// Converts a domain.
pub fn convert(xml: &str, wishes: &Wishes) -> Result<Conversion, ConvertError> {
    let doc = Document::parse(xml)?;
    let domain = doc.root_element();
    let found = domain.tag_name().name();
    if found != "domain" {
        let found = found.to_owned();
        return Err(ConvertError::NotADomain { found });
    }
    let kind = domain.attribute("type").unwrap_or_default();
    if !MACHINES.contains(&kind) {
        let kind = kind.to_owned();
        return Err(ConvertError::NotAMachine { kind });
    }
    let name = text_of(domain, "name").ok_or(ConvertError::NoName)?;
    let mut pass = Pass {
        edits: Edits::new(&doc),
        domain,
        wishes,
        from_xen: kind == "xen",
        changes: Vec::new(),
        decisions: Vec::new(),
    };
    pass.kind(kind);
    pass.os();
    pass.cpu();
    pass.memory();
    pass.lifecycle();
    pass.devices();
    pass.command_lines();
    Ok(Conversion {
        xml: pass.edits.finish(),
        name,
        changes: pass.changes,
        decisions: pass.decisions,
    })
}

/// One conversion under way.
struct Pass<'d, 'i> {
    edits: Edits<'d, 'i>,
    domain: Node<'d, 'i>,
    wishes: &'d Wishes,
    /// The domain comes from a Xen host.
    from_xen: bool,
    changes: Vec<Change>,
    decisions: Vec<Decision>,
}

/// Namespace of `<qemu:commandline>`.
const QEMU_NS: &str = "http://libvirt.org/schemas/domain/qemu/1.0";
/// Namespace of `<xen:commandline>`.
const XEN_NS: &str = "http://libvirt.org/schemas/domain/xen/1.0";

impl<'d, 'i> Pass<'d, 'i> {
    fn changed(&mut self, what: impl Into<String>, why: impl Into<String>) {
        let (what, why) = (what.into(), why.into());
        self.changes.push(Change { what, why });
    }

    fn decide(&mut self, element: impl Into<String>, question: impl Into<String>) {
        self.decisions.push(Decision {
            element: element.into(),
            question: question.into(),
        });
    }

    /// Takes an element out and says so.
    fn remove(&mut self, node: Node<'d, 'i>, why: &str) {
        self.edits.remove(node);
        self.changed(format!("{} removed", label(node)), why);
    }

    /// Takes out all children of these names, and says so.
    fn remove_children(&mut self, parent: Node<'d, 'i>, names: &[&str], why: &str) {
        for child in elements(parent).filter(|node| names.contains(&node.tag_name().name())) {
            self.remove(child, why);
        }
    }

    /// Gives an attribute another value and says so.
    fn set(&mut self, node: Node<'d, 'i>, name: &str, value: &str, why: &str) {
        self.edits.set_attribute(node, name, value);
        let what = format!("{}: {name}='{}'", label(node), escaped(value));
        self.changed(what, why);
    }

    /// Takes an attribute out, if it is there, and says so.
    fn unset(&mut self, node: Node<'d, 'i>, name: &str, why: &str) {
        if let Some(value) = node.attribute(name) {
            self.edits.remove_attribute(node, name);
            let what = format!("{}: {name}='{}' removed", label(node), escaped(value));
            self.changed(what, why);
        }
    }

    fn kind(&mut self, kind: &str) {
        if kind != "kvm" {
            let why = format!("it was '{kind}'; libvirt's qemu driver starts xenner with KVM");
            self.edits.set_attribute(self.domain, "type", "kvm");
            self.changed("<domain>: type='kvm'", why);
            // The number of a running domain of another driver.
            self.edits.remove_attribute(self.domain, "id");
        }
    }

    /// What becomes of a domain that stops.
    fn lifecycle(&mut self) {
        for name in ["on_poweroff", "on_reboot", "on_crash"] {
            let Some(node) = child(self.domain, name) else {
                continue;
            };
            if node.text().map(str::trim) == Some("rename-restart") {
                self.edits.set_text(node, "restart");
                let what = format!("<{name}>: restart");
                self.changed(what, "libvirt's qemu driver does not rename domains");
            }
        }
        let why = "a PV domain has no such thing";
        self.remove_children(self.domain, &["keywrap", "genid"], why);
        for node in children(self.domain, "sysinfo") {
            if node.attribute("type") == Some("fwcfg") {
                self.remove(node, "xenner has no firmware configuration device");
            }
        }
        if let Some(node) = child(self.domain, "launchSecurity") {
            let question = "xenner does not encrypt the guest's memory; remove the element if \
                            the host may see what the guest does";
            self.decide(label(node), question);
        }
    }

    /// Options that libvirt hands on as they are.
    fn command_lines(&mut self) {
        let theirs = text_of(self.domain, "devices/emulator");
        let ours = theirs == self.wishes.emulator || self.wishes.emulator.is_none();
        for node in elements(self.domain) {
            match (node.tag_name().namespace(), node.tag_name().name()) {
                (Some(QEMU_NS), "commandline" | "override") if !ours => {
                    let question = "xenner takes QEMU's options as far as a PV domain has what \
                                    they are about; remove those that it has not";
                    self.decide(label(node), question);
                }
                (Some(XEN_NS), _) => self.remove(node, "libvirt's qemu driver does not know it"),
                _ => {}
            }
        }
    }
}

/// The elements in an element.
fn elements<'d, 'i: 'd>(parent: Node<'d, 'i>) -> impl Iterator<Item = Node<'d, 'i>> {
    parent.children().filter(Node::is_element)
}

/// The elements of a name, and of no namespace, in an element.
fn children<'d, 'i: 'd>(parent: Node<'d, 'i>, name: &str) -> impl Iterator<Item = Node<'d, 'i>> {
    elements(parent).filter(move |node| {
        let tag = node.tag_name();
        tag.name() == name && tag.namespace().is_none()
    })
}

/// The first of them.
fn child<'d, 'i: 'd>(parent: Node<'d, 'i>, name: &str) -> Option<Node<'d, 'i>> {
    children(parent, name).next()
}

/// An attribute of a child.
fn child_attribute<'d>(parent: Node<'d, '_>, name: &str, attribute: &str) -> Option<&'d str> {
    child(parent, name)?.attribute(attribute)
}

/// What stands at a path of elements, without the blanks around it; none if that is nothing.
fn text_of(from: Node<'_, '_>, path: &str) -> Option<String> {
    let node = path.split('/').try_fold(from, child)?;
    let text = node.text().unwrap_or_default().trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// How the report calls an element: its name and what tells it from others.
fn label(node: Node<'_, '_>) -> String {
    let name = node.tag_name().name();
    let prefix = match node.tag_name().namespace() {
        Some(QEMU_NS) => "qemu:",
        Some(XEN_NS) => "xen:",
        _ => "",
    };
    let mut text = format!("<{prefix}{name}");
    for key in ["type", "model", "mode", "device", "bus", "name", "dev"] {
        if let Some(value) = node.attribute(key) {
            text += &format!(" {key}='{}'", escaped(value));
        }
    }
    let inner = [
        ("target", "dev"),
        ("target", "dir"),
        ("mac", "address"),
        ("model", "type"),
        ("target", "name"),
    ];
    let found = inner.iter().find_map(|(child, key)| {
        let value = child_attribute(node, child, key)?;
        Some(format!("><{child} {key}='{}'>", escaped(value)))
    });
    text += found.as_deref().unwrap_or(">");
    text
}
