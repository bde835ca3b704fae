//! The keys that a PV domain and the tools around it expect in the store, with
//! the permissions that Xen's toolstack gives them: the domain's directory is
//! domid 0's and readable by the domain; a few directories are the domain's
//! own.

use super::error::StoreError;
use super::handle::{StoreHandle, StoreTransaction};
use super::path::domain_path;
use super::perms::{DomId, Perm};
use xenner_pvdevices::domain::DeviceNodes;

/// How the primary console's backend presents itself (`console/type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ConsoleType {
    /// A text console as of Xen's console daemon.
    #[default]
    Xenconsoled,
    /// A console served by a device model.
    Ioemu,
}

impl ConsoleType {
    fn name(self) -> &'static str {
        match self {
            Self::Xenconsoled => "xenconsoled",
            Self::Ioemu => "ioemu",
        }
    }
}

/// What the keys of a domain tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainKeys {
    /// The domain's number.
    pub domid: DomId,
    /// Its UUID in the usual form with hyphens.
    pub uuid: String,
    /// Its name.
    pub name: String,
    /// Its memory in KiB, at start and at most.
    pub memory_kib: u64,
    /// For each vcpu that it may ever have: it is to use it.
    pub vcpus: Vec<bool>,
    /// The event channel port of the store, as the guest knows it.
    pub store_port: u32,
    /// The frame of the store's page.
    pub store_mfn: u64,
    /// The event channel port of the console, as the guest knows it.
    pub console_port: u32,
    /// The frame of the console's page.
    pub console_mfn: u64,
    /// Who serves the console.
    pub console_type: ConsoleType,
    /// Where its text goes (`console/output`): `pty` and the like.
    pub console_output: String,
    /// The terminal to reach it by, if it has one.
    pub console_tty: Option<String>,
    /// Bytes of console output that may be kept for a reader.
    pub console_limit: u64,
}

/// `XenbusStateInitialising` of `io/xenbus.h`: where both ends begin.
const XENBUS_STATE_INITIALISING: &str = "1";

fn availability_key(vcpu: u32) -> String {
    format!("cpu/{vcpu}/availability")
}

fn availability(online: bool) -> &'static str {
    if online { "online" } else { "offline" }
}

/// Asks the domain to use a vcpu from now on, or to do without it. It has a watch on that.
///
/// # Errors
/// [`StoreError`]: the path is not valid.
pub fn set_availability(
    store: &StoreHandle,
    domid: DomId,
    vcpu: u32,
    online: bool,
) -> Result<(), StoreError> {
    let path = format!("{}/{}", domain_path(domid), availability_key(vcpu));
    store.write(&path, availability(online))
}

/// Writes keys below one directory.
struct Writer<'a> {
    transaction: &'a StoreTransaction<'a>,
    base: String,
    perms: Vec<Perm>,
}

impl<'a> Writer<'a> {
    fn new(
        transaction: &'a StoreTransaction<'a>,
        base: String,
        perms: Vec<Perm>,
    ) -> Result<Self, StoreError> {
        transaction.mkdir(&base)?;
        transaction.set_perms(&base, &perms)?;
        Ok(Self {
            transaction,
            base,
            perms,
        })
    }

    /// A key with the directory's permissions; directories on the way get
    /// them by inheritance.
    fn put(&self, key: &str, value: &str) -> Result<(), StoreError> {
        self.put_with(key, value, &self.perms)
    }

    fn put_with(&self, key: &str, value: &str, perms: &[Perm]) -> Result<(), StoreError> {
        let path = format!("{}/{key}", self.base);
        self.transaction.write(&path, value)?;
        self.transaction.set_perms(&path, perms)
    }
}

impl DomainKeys {
    /// Writes all keys of the domain, in one transaction. Keys that are there
    /// already are set anew.
    ///
    /// # Errors
    /// [`StoreError`]: the UUID is not fit for a path, or the transaction met
    /// other writers again and again.
    pub fn publish(&self, store: &StoreHandle) -> Result<(), StoreError> {
        store.transaction(|transaction| {
            publish_dom0(transaction)?;
            self.publish_vm(transaction)?;
            let readable = vec![Perm::none(0), Perm::read(self.domid)];
            let domain = Writer::new(transaction, domain_path(self.domid), readable)?;
            self.publish_identity(&domain)?;
            self.publish_console(&domain)?;
            self.publish_control(&domain)?;
            publish_own_directories(&domain, self.domid)
        })
    }

    /// Removes all keys of the domain, those of its devices' backends
    /// included.
    ///
    /// # Errors
    /// As [`DomainKeys::publish`].
    pub fn remove(&self, store: &StoreHandle) -> Result<(), StoreError> {
        store.transaction(|transaction| {
            remove_if_present(transaction, &domain_path(self.domid))?;
            remove_if_present(transaction, &self.vm_path())?;
            let backends = format!("{}/backend", domain_path(0));
            let classes = match transaction.list(&backends) {
                Ok(classes) => classes,
                Err(_) => return Ok(()),
            };
            for class in classes {
                let backend = format!("{backends}/{class}/{}", self.domid);
                remove_if_present(transaction, &backend)?;
            }
            Ok(())
        })
    }

    fn vm_path(&self) -> String {
        format!("/vm/{}", self.uuid)
    }

    fn publish_vm(&self, transaction: &StoreTransaction<'_>) -> Result<(), StoreError> {
        let readable = vec![Perm::none(0), Perm::read(self.domid)];
        let vm = Writer::new(transaction, self.vm_path(), readable)?;
        vm.put("name", &self.name)?;
        vm.put("uuid", &self.uuid)?;
        vm.put("image/ostype", "linux")
    }

    fn publish_identity(&self, domain: &Writer<'_>) -> Result<(), StoreError> {
        domain.put("vm", &self.vm_path())?;
        domain.put("name", &self.name)?;
        domain.put("domid", &self.domid.to_string())?;
        domain.put("memory/static-max", &self.memory_kib.to_string())?;
        domain.put("memory/target", &self.memory_kib.to_string())?;
        domain.put("memory/videoram", "0")?;
        for (cpu, online) in (0..).zip(&self.vcpus) {
            domain.put(&availability_key(cpu), availability(*online))?;
        }
        domain.put("store/port", &self.store_port.to_string())?;
        domain.put("store/ring-ref", &self.store_mfn.to_string())
    }

    fn publish_console(&self, domain: &Writer<'_>) -> Result<(), StoreError> {
        let backend = backend_path("console", self.domid, 0);
        domain.put("console/backend", &backend)?;
        domain.put("console/backend-id", "0")?;
        domain.put("console/limit", &self.console_limit.to_string())?;
        domain.put("console/type", self.console_type.name())?;
        domain.put("console/output", &self.console_output)?;
        domain.put(
            "console/tty",
            self.console_tty.as_deref().unwrap_or_default(),
        )?;
        domain.put("console/port", &self.console_port.to_string())?;
        domain.put("console/ring-ref", &self.console_mfn.to_string())?;
        let readable = vec![Perm::none(0), Perm::read(self.domid)];
        let backend = Writer::new(domain.transaction, backend, readable)?;
        backend.put("frontend", &format!("{}/console", domain_path(self.domid)))?;
        backend.put("frontend-id", &self.domid.to_string())?;
        backend.put("online", "1")?;
        backend.put("state", XENBUS_STATE_INITIALISING)?;
        backend.put("protocol", "vt100")
    }

    fn publish_control(&self, domain: &Writer<'_>) -> Result<(), StoreError> {
        let own = [Perm::none(self.domid)];
        domain.put("control", "")?;
        for key in [
            "shutdown",
            "feature-poweroff",
            "feature-reboot",
            "feature-suspend",
            "feature-s3",
            "feature-s4",
            "sysrq",
        ] {
            domain.put_with(&format!("control/{key}"), "", &own)?;
        }
        domain.put("control/platform-feature-multiprocessor-suspend", "1")?;
        domain.put("control/platform-feature-xs_reset_watches", "1")
    }
}

/// Makes the directories of a device, in one transaction, in place of what is
/// there: the frontend's is the domain's own and readable by domid 0, the
/// backend's is domid 0's and readable by the domain.
///
/// # Errors
/// [`StoreError`]: a name is not fit for a path, or the transaction met
/// other writers again and again.
pub fn publish_device(store: &StoreHandle, nodes: &DeviceNodes) -> Result<(), StoreError> {
    let domid = nodes.domid;
    store.transaction(|transaction| {
        for stale in [&nodes.frontend, &nodes.backend] {
            remove_if_present(transaction, stale)?;
        }
        let readable = vec![Perm::none(0), Perm::read(domid)];
        let back = Writer::new(transaction, nodes.backend.clone(), readable.clone())?;
        for (key, value) in &nodes.backend_keys {
            back.put(key, value)?;
        }
        let own = vec![Perm::none(domid), Perm::read(0)];
        let front = Writer::new(transaction, nodes.frontend.clone(), own)?;
        for (key, value) in &nodes.frontend_keys {
            front.put(key, value)?;
        }
        for (key, value) in &nodes.frontend_labels {
            front.put_with(key, value, &readable)?;
        }
        Ok(())
    })
}

fn backend_path(class: &str, domid: DomId, id: u32) -> String {
    format!("{}/backend/{class}/{domid}/{id}", domain_path(0))
}

fn publish_dom0(transaction: &StoreTransaction<'_>) -> Result<(), StoreError> {
    let dom0 = domain_path(0);
    transaction.write(&format!("{dom0}/domid"), "0")?;
    transaction.write(&format!("{dom0}/name"), "Domain-0")?;
    transaction.mkdir("/tool/xenstored")
}

/// The directories in which the domain may do as it likes, and the one for its
/// frontends.
fn publish_own_directories(domain: &Writer<'_>, domid: DomId) -> Result<(), StoreError> {
    let own = [Perm::none(domid)];
    domain.put("device", "")?;
    domain.put_with("device/suspend/event-channel", "", &own)?;
    for key in ["data", "drivers", "feature", "attr", "error", "hvmloader"] {
        domain.put_with(key, "", &own)?;
    }
    Ok(())
}

fn remove_if_present(transaction: &StoreTransaction<'_>, path: &str) -> Result<(), StoreError> {
    match transaction.rm(path) {
        // Its parent is missing, and so is it.
        Err(error) if error.errno() == Some(super::error::XsErrno::ENOENT) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
#[path = "domain_keys_tests.rs"]
mod tests;
