"""The calls that virt-manager makes for a machine in its list and in a window,
to the running domain of the name that is the second argument: manager.py URI
DOMAIN EMULATOR. `refused` as the fourth has it try what the domain cannot do."""

import sys
import threading

import libvirt

TICK = 0.2


def events():
    """Its event loop, in a thread of its own."""
    libvirt.virEventRegisterDefaultImpl()

    def run():
        while True:
            libvirt.virEventRunDefaultImpl()

    threading.Thread(target=run, daemon=True).start()


def connection(conn, emulator):
    """What it asks of the host when it connects, and for its forms."""
    conn.setKeepAlive(20, 1)
    conn.getURI(), conn.getHostname(), conn.getInfo()
    conn.getLibVersion(), conn.getVersion(), conn.getType()
    assert "<capabilities>" in conn.getCapabilities()
    seen = []
    note = lambda *words: seen.append(words)
    for event in (
        libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE,
        libvirt.VIR_DOMAIN_EVENT_ID_BALLOON_CHANGE,
        libvirt.VIR_DOMAIN_EVENT_ID_TRAY_CHANGE,
        libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_ADDED,
        libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED,
        libvirt.VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE,
    ):
        conn.domainEventRegisterAny(None, event, note, None)
    conn.listAllNetworks(), conn.listAllStoragePools()
    conn.listAllDevices(), conn.listAllInterfaces()
    for machine in (None, "pc"):
        text = conn.getDomainCapabilities(emulator, "x86_64", machine, "kvm")
        assert "<machine>pc-i440fx-xenner</machine>" in text, text
    return seen


def listed(conn, domain):
    """A line of its list, which it asks for again and again."""
    kinds = (
        libvirt.VIR_DOMAIN_STATS_STATE
        | libvirt.VIR_DOMAIN_STATS_CPU_TOTAL
        | libvirt.VIR_DOMAIN_STATS_VCPU
        | libvirt.VIR_DOMAIN_STATS_BALLOON
        | libvirt.VIR_DOMAIN_STATS_BLOCK
        | libvirt.VIR_DOMAIN_STATS_INTERFACE
    )
    assert domain.name() in [each.name() for each in conn.listAllDomains()]
    for _ in range(3):
        (_, stats), = conn.getAllDomainStats(kinds, 0)
        for key in (
            "cpu.time",
            "vcpu.0.time",
            "balloon.current",
            "block.0.rd.bytes",
            "net.0.rx.bytes",
        ):
            assert key in stats, (key, stats)
    # Without getAllDomainStats, as older libvirts.
    domain.memoryStats(), domain.interfaceStats("tap9"), domain.blockStats("vda")
    domain.setMemoryStatsPeriod(10, libvirt.VIR_DOMAIN_AFFECT_LIVE)


def window(domain):
    """Its details."""
    domain.ID(), domain.UUIDString(), domain.OSType(), domain.isPersistent()
    state, _ = domain.state()
    assert state == libvirt.VIR_DOMAIN_RUNNING, state
    _, _, _, vcpus, _ = domain.info()
    assert vcpus == 2, vcpus
    domain.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE)
    domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE)
    domain.autostart(), domain.hasManagedSaveImage(), domain.hasCurrentSnapshot()
    domain.listAllSnapshots(), domain.jobInfo(), domain.jobStats()
    domain.blockInfo("vda"), domain.vcpus()
    domain.maxVcpus(), domain.maxMemory()
    domain.interfaceAddresses(libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE)
    try:
        domain.interfaceAddresses(libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_ARP)
    except libvirt.libvirtError as error:
        # libvirt cannot read an empty table of the host's.
        assert "nlmsg" in str(error), error


def console(conn, domain):
    """Its text console, opened and closed."""
    stream = conn.newStream(0)
    domain.openConsole(None, stream, 0)
    stream.abort()


def changes(domain, seen):
    """Its buttons."""
    live = libvirt.VIR_DOMAIN_AFFECT_LIVE
    domain.suspend(), domain.resume()
    domain.setMemoryFlags(200 << 10, live), domain.setMemoryFlags(256 << 10, live)
    link = """<interface type='bridge'><mac address='%s'/><source bridge='br0'/>
        <target dev='tap9'/><model type='virtio'/><link state='%s'/></interface>"""
    mac = domain.XMLDesc().split("<mac address='")[1].split("'")[0]
    for state in ("down", "up"):
        domain.updateDeviceFlags(link % (mac, state), live)
    medium = """<disk type='file' device='cdrom'><driver name='qemu' type='raw'/>%s
        <target dev='hda' bus='ide'/><readonly/></disk>"""
    for source in ("<source file='/var/lib/libvirt/images/one.iso'/>", ""):
        domain.updateDeviceFlags(medium % source, live)
    # It shows what has changed when it is told so: the two states, four times the tray.
    for _ in range(50):
        if len(seen) >= 6:
            return
        threading.Event().wait(TICK)
    raise SystemExit(f"few events came: {seen}")


def refused(conn, domain):
    """What there is not, it says, and the domain goes on."""
    tries = {
        "screenshot": lambda: domain.screenshot(conn.newStream(0), 0),
        "graphics": lambda: domain.openGraphicsFD(0),
        "agent": lambda: domain.interfaceAddresses(
            libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT
        ),
        "managed save": lambda: domain.managedSave(0),
        "snapshot": lambda: domain.snapshotCreateXML("<domainsnapshot/>", 0),
    }
    for name, attempt in tries.items():
        try:
            attempt()
        except libvirt.libvirtError as error:
            print(f"{name}: {error}")
            continue
        raise SystemExit(f"{name} did not fail")
    assert domain.state()[0] == libvirt.VIR_DOMAIN_RUNNING, domain.state()


def main(uri, name, emulator, part=""):
    events()
    conn = libvirt.open(uri)
    domain = conn.lookupByName(name)
    if part == "refused":
        return refused(conn, domain)
    seen = connection(conn, emulator)
    listed(conn, domain)
    window(domain)
    console(conn, domain)
    changes(domain, seen)


main(*sys.argv[1:])
