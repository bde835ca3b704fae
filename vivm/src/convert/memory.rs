//! `<maxMemory>` and `<memoryBacking>`: a domain's memory is anonymous memory of its process, all of it
//! there from the start.

use super::{Pass, child, children};

impl Pass<'_, '_> {
    pub(super) fn memory(&mut self) {
        let why = "memory is not plugged in at run time; <memory> is what the guest has";
        self.remove_children(self.domain, &["maxMemory"], why);
        let Some(backing) = child(self.domain, "memoryBacking") else {
            return;
        };
        let why = "a domain's memory is its process's own, a page at a time as it is touched";
        self.remove_children(backing, &["hugepages", "locked"], why);
        for node in children(backing, "source") {
            if !matches!(node.attribute("type"), Some("anonymous" | "memfd")) {
                self.remove(node, why);
            }
        }
        for node in children(backing, "allocation") {
            if node.attribute("mode") == Some("immediate") || node.has_attribute("threads") {
                self.remove(node, why);
            }
        }
    }
}
