//! A request and a reply of every command. Those of one command that comes twice show other members.

use std::borrow::Cow;
use std::fmt::Debug;

use qga_protocol::schema::*;
use serde::Deserialize;

/// What is done with each of the samples.
pub trait Visit {
    fn visit<C>(&mut self, arguments: C, returns: C::Returns<'static>)
    where
        C: Command + Deserialize<'static> + PartialEq + Debug,
        C::Returns<'static>: PartialEq + Debug;
}

pub fn visit_all(to: &mut impl Visit) {
    agent(to);
    power_and_time(to);
    file(to);
    exec(to);
    fsfreeze(to);
    filesystem(to);
    disk(to);
    network(to);
    cpu_and_memory(to);
    accounts(to);
    os(to);
}

fn text<T: From<&'static str>>(text: &'static str) -> Option<T> {
    Some(text.into())
}

fn agent(to: &mut impl Visit) {
    to.visit(GuestSyncDelimited { id: 1_764_290_000_123 }, 1_764_290_000_123);
    to.visit(GuestSync { id: -7 }, -7);
    to.visit(GuestPing {}, Empty {});
    let commands = [("guest-sync", true), ("guest-shutdown", false)];
    let supported_commands = commands.map(|(name, success_response)| CommandInfo {
        name: Cow::Borrowed(name),
        enabled: true,
        success_response,
    });
    to.visit(
        GuestInfo {},
        AgentInfo { version: Cow::Borrowed("11.1.3"), supported_commands: supported_commands.into() },
    );
}

fn power_and_time(to: &mut impl Visit) {
    to.visit(GuestGetTime {}, 1_764_290_000_123_456_789);
    to.visit(GuestSetTime { time: Some(1_764_290_000_000_000_000) }, Empty {});
    to.visit(GuestSetTime { time: None }, Empty {});
    to.visit(GuestShutdown { mode: Some("reboot") }, Empty {});
    to.visit(GuestShutdown { mode: None }, Empty {});
    to.visit(GuestSuspendDisk {}, Empty {});
    to.visit(GuestSuspendRam {}, Empty {});
    to.visit(GuestSuspendHybrid {}, Empty {});
}

fn file(to: &mut impl Visit) {
    to.visit(GuestFileOpen { path: "/etc/hostname", mode: Some("r+") }, 1000);
    to.visit(GuestFileOpen { path: "/etc/hostname", mode: None }, 1000);
    to.visit(GuestFileClose { handle: 1000 }, Empty {});
    let read = FileRead { buf_b64: Cow::Borrowed("aGVsbG8K"), count: 6, eof: true };
    to.visit(GuestFileRead { handle: 1000, count: Some(65536) }, read.clone());
    to.visit(GuestFileRead { handle: 1000, count: None }, read);
    let written = FileWrite { count: 6, eof: false };
    to.visit(GuestFileWrite { handle: 1000, buf_b64: "aGVsbG8K", count: Some(6) }, written.clone());
    to.visit(GuestFileWrite { handle: 1000, buf_b64: "aGVsbG8K", count: None }, written);
    let position = FileSeek { position: 0, eof: false };
    for whence in [FileWhence::Set, FileWhence::Cur, FileWhence::End, FileWhence::Other(9)] {
        to.visit(GuestFileSeek { handle: 1000, offset: 0, whence }, position.clone());
    }
    to.visit(GuestFileFlush { handle: 1000 }, Empty {});
}

fn exec(to: &mut impl Visit) {
    let exec = GuestExec {
        path: "grep",
        arg: Some(vec!["-c", "x"]),
        env: Some(vec!["PATH=/usr/bin", "LC_ALL=C"]),
        input_data: Some(Secret("eAo=")),
        capture_output: Some(ExecCaptureOutput::Separated),
    };
    use ExecCaptureOutput::{Merged, None as Nothing, Separated, Stderr, Stdout};
    for mode in [Separated, Nothing, Stdout, Stderr, Merged].map(Some).into_iter().chain([None]) {
        to.visit(GuestExec { capture_output: mode, ..exec.clone() }, Exec { pid: 4711 });
    }
    let bare = GuestExec { path: "true", arg: None, env: None, input_data: None, capture_output: None };
    to.visit(bare, Exec { pid: 4712 });
    let ended = ExecStatus {
        exited: true,
        exit_code: Some(0),
        signal: None,
        out_truncated: Some(false),
        out_data: text("MQo="),
        err_truncated: None,
        err_data: None,
    };
    to.visit(GuestExecStatus { pid: 4711 }, ended);
    let killed = ExecStatus {
        exited: true,
        exit_code: None,
        signal: Some(9),
        out_truncated: None,
        out_data: None,
        err_truncated: Some(true),
        err_data: text("bm8K"),
    };
    to.visit(GuestExecStatus { pid: 4711 }, killed);
    to.visit(GuestExecStatus { pid: 4711 }, ExecStatus { exited: false, ..ExecStatus::default() });
}

fn fsfreeze(to: &mut impl Visit) {
    to.visit(GuestFsfreezeStatus {}, FsfreezeStatus::Thawed);
    to.visit(GuestFsfreezeStatus {}, FsfreezeStatus::Frozen);
    to.visit(GuestFsfreezeFreeze {}, 2);
    to.visit(GuestFsfreezeFreezeList { mountpoints: Some(vec!["/", "/srv"]) }, 2);
    to.visit(GuestFsfreezeFreezeList { mountpoints: None }, 2);
    to.visit(GuestFsfreezeThaw {}, 2);
}

fn address() -> DiskAddress {
    DiskAddress {
        pci_controller: PciAddress { domain: 0, bus: 0, slot: 4, function: 0 },
        bus_type: DiskBusType::Virtio,
        bus: 0,
        target: 0,
        unit: 0,
        serial: text("root"),
        dev: text("/dev/vda1"),
        ccw_address: None,
    }
}

fn filesystem(to: &mut impl Visit) {
    let root = FilesystemInfo {
        name: "vda1".into(),
        mountpoint: "/".into(),
        fs_type: "ext4".into(),
        used_bytes: Some(18_008_223_744),
        total_bytes: Some(97_572_749_312),
        total_bytes_privileged: Some(102_842_458_112),
        disk: vec![address()],
    };
    let dead = FilesystemInfo {
        used_bytes: None,
        total_bytes: None,
        total_bytes_privileged: None,
        disk: Vec::new(),
        ..root.clone()
    };
    to.visit(GuestGetFsinfo {}, vec![root]);
    to.visit(GuestGetFsinfo {}, vec![dead]);
    let path =
        |path: &str, trimmed, minimum, error| FilesystemTrimResult { path: path.into(), trimmed, minimum, error };
    let paths = vec![path("/boot", None, None, text("trim not supported")), path("/", Some(1 << 30), Some(4096), None)];
    to.visit(GuestFstrim { minimum: Some(4096) }, FilesystemTrimResponse { paths: paths.clone() });
    to.visit(GuestFstrim { minimum: Some(u64::MAX) }, FilesystemTrimResponse { paths });
    to.visit(GuestFstrim { minimum: None }, FilesystemTrimResponse { paths: Vec::new() });
}

fn disk(to: &mut impl Visit) {
    let disk = DiskInfo {
        name: "/dev/vda".into(),
        partition: false,
        dependencies: Some(Vec::new()),
        address: Some(DiskAddress { dev: text("/dev/vda"), ..address() }),
        alias: None,
        smart: None,
    };
    let partition = DiskInfo {
        name: "/dev/vda1".into(),
        partition: true,
        dependencies: Some(vec!["/dev/vda".into()]),
        address: None,
        ..disk.clone()
    };
    let mapped = DiskInfo { name: "/dev/dm-0".into(), alias: text("vg-root"), address: None, ..partition.clone() };
    to.visit(GuestGetDisks {}, vec![partition, disk.clone()]);
    let channel = DiskAddress {
        pci_controller: PciAddress { domain: -1, bus: -1, slot: -1, function: -1 },
        serial: None,
        dev: None,
        ccw_address: Some(CcwAddress { cssid: 0, ssid: 0, subchno: 3, devno: 4660 }),
        ..address()
    };
    let nvme = DiskInfo {
        name: "/dev/nvme0n1".into(),
        dependencies: None,
        address: Some(DiskAddress { bus_type: DiskBusType::Nvme, ..address() }),
        smart: Some(DiskSmart::Nvme(health())),
        ..disk.clone()
    };
    to.visit(GuestGetDisks {}, vec![DiskInfo { address: Some(channel), ..disk }, mapped, nvme]);
    let [some, none] = [statistics(), DiskStats::default()].map(|stats| DiskStatsInfo {
        name: "vda".into(),
        major: 253,
        minor: 0,
        stats,
    });
    to.visit(GuestGetDiskstats {}, vec![some]);
    to.visit(GuestGetDiskstats {}, vec![none]);
}

fn health() -> NvmeSmart {
    NvmeSmart {
        critical_warning: 0,
        temperature: 310,
        available_spare: 100,
        available_spare_threshold: 10,
        percentage_used: 3,
        data_units_read_lo: 1,
        data_units_read_hi: u64::MAX,
        data_units_written_lo: 3,
        data_units_written_hi: 4,
        host_read_commands_lo: 5,
        host_read_commands_hi: 6,
        host_write_commands_lo: 7,
        host_write_commands_hi: 8,
        controller_busy_time_lo: 9,
        controller_busy_time_hi: 10,
        power_cycles_lo: 11,
        power_cycles_hi: 12,
        power_on_hours_lo: 13,
        power_on_hours_hi: 14,
        unsafe_shutdowns_lo: 15,
        unsafe_shutdowns_hi: 16,
        media_errors_lo: 17,
        media_errors_hi: 18,
        number_of_error_log_entries_lo: 19,
        number_of_error_log_entries_hi: 20,
    }
}

fn statistics() -> DiskStats {
    DiskStats {
        read_sectors: Some(1_200_344),
        read_ios: Some(20_033),
        read_merges: Some(104),
        write_sectors: Some(800_120),
        write_ios: Some(9_001),
        write_merges: Some(3_020),
        discard_sectors: Some(4096),
        discard_ios: Some(2),
        discard_merges: Some(0),
        flush_ios: Some(512),
        read_ticks: Some(5_004),
        write_ticks: Some(9_120),
        discard_ticks: Some(4),
        flush_ticks: Some(99),
        ios_pgr: Some(0),
        total_ticks: Some(7_700),
        weight_ticks: Some(14_227),
    }
}

fn network(to: &mut impl Visit) {
    let statistics = NetworkInterfaceStat {
        rx_bytes: 1220,
        rx_packets: 14,
        rx_errs: 0,
        rx_dropped: 1,
        tx_bytes: 686,
        tx_packets: 7,
        tx_errs: 0,
        tx_dropped: 0,
    };
    let addresses = [("192.0.2.10", 24), ("2001:db8::10", 64)];
    let ip_addresses = addresses.map(|(address, prefix)| IpAddress::new(address.parse().expect("address"), prefix));
    let interface = NetworkInterface {
        name: "eth0".into(),
        hardware_address: Some(MacAddress([0x52, 0x54, 0, 0x12, 0x34, 0x5f])),
        ip_addresses: ip_addresses.into(),
        statistics: Some(statistics),
    };
    to.visit(GuestNetworkGetInterfaces {}, vec![interface]);
    let bare =
        NetworkInterface { name: "ib0".into(), hardware_address: None, ip_addresses: Vec::new(), statistics: None };
    to.visit(GuestNetworkGetInterfaces {}, vec![bare]);
    let ipv4 = Ipv4Route {
        iface: Cow::Borrowed("eth0"),
        destination: [0, 0, 0, 0].into(),
        gateway: [192, 0, 2, 1].into(),
        mask: [0, 0, 0, 0].into(),
        metric: 100,
        flags: Some(3),
        refcnt: Some(0),
        used: Some(0),
        mtu: Some(0),
        window: Some(0),
        irtt: Some(0),
        version: IpVersion,
    };
    let ipv6 = Ipv6Route {
        iface: Cow::Borrowed("lo"),
        destination: "2001:db8::".parse().expect("address"),
        destination_prefix: PrefixLength(32),
        source: Some("::".parse().expect("address")),
        source_prefix: Some(PrefixLength(0)),
        next_hop: "::".parse().expect("address"),
        metric: u32::MAX,
        refcnt: Some(1),
        used: Some(0),
        flags: Some(0x8020_0001),
        version: IpVersion,
    };
    let windows4 =
        Ipv4Route { flags: None, refcnt: None, used: None, mtu: None, window: None, irtt: None, ..ipv4.clone() };
    let windows6 =
        Ipv6Route { source: None, source_prefix: None, refcnt: None, used: None, flags: None, ..ipv6.clone() };
    to.visit(GuestNetworkGetRoute {}, vec![NetworkRoute::Ipv4(ipv4), NetworkRoute::Ipv6(ipv6)]);
    to.visit(GuestNetworkGetRoute {}, vec![NetworkRoute::Ipv4(windows4), NetworkRoute::Ipv6(windows6)]);
}

fn cpu_and_memory(to: &mut impl Visit) {
    let cpu = |logical_id, online, can_offline| LogicalProcessor { logical_id, online, can_offline };
    to.visit(GuestGetVcpus {}, vec![cpu(0, true, Some(false)), cpu(1, true, Some(true))]);
    to.visit(GuestSetVcpus { vcpus: vec![cpu(1, false, None)] }, 1);
    let all = LinuxCpuStats {
        cpu: 0,
        user: 71_460,
        nice: 10,
        system: 20_140,
        idle: 900_330,
        iowait: Some(1_220),
        irq: Some(0),
        softirq: Some(410),
        steal: Some(90),
        guest: Some(0),
        guest_nice: Some(0),
    };
    let old =
        LinuxCpuStats { iowait: None, irq: None, softirq: None, steal: None, guest: None, guest_nice: None, ..all };
    to.visit(GuestGetCpustats {}, vec![CpuStats::Linux(all)]);
    to.visit(GuestGetCpustats {}, vec![CpuStats::Linux(old)]);
    let block = |phys_index, online, can_offline| MemoryBlock { phys_index, online, can_offline };
    to.visit(GuestGetMemoryBlocks {}, vec![block(0, true, Some(false)), block(32, true, Some(true))]);
    use MemoryBlockResponseType::{NotFound, OperationFailed, OperationNotSupported, Success};
    let response = |phys_index, response, error_code| MemoryBlockResponse { phys_index, response, error_code };
    to.visit(
        GuestSetMemoryBlocks { mem_blks: vec![block(32, false, None), block(99, false, None)] },
        vec![response(32, Success, None), response(99, NotFound, Some(2))],
    );
    to.visit(
        GuestSetMemoryBlocks { mem_blks: Vec::new() },
        vec![response(u64::MAX, OperationFailed, Some(16)), response(1, OperationNotSupported, Some(2))],
    );
    to.visit(GuestGetMemoryBlockInfo {}, MemoryBlockInfo { size: 134_217_728 });
}

fn accounts(to: &mut impl Visit) {
    let password = Secret("c2VjcmV0");
    to.visit(GuestSetUserPassword { username: "alice", password, crypted: false }, Empty {});
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIExample alice@example.org";
    to.visit(GuestSshGetAuthorizedKeys { username: "alice" }, AuthorizedKeys { keys: vec![key.into()] });
    for reset in [Some(true), None] {
        to.visit(GuestSshAddAuthorizedKeys { username: "alice", keys: vec![key], reset }, Empty {});
    }
    to.visit(GuestSshRemoveAuthorizedKeys { username: "alice", keys: vec![key] }, Empty {});
}

fn os(to: &mut impl Visit) {
    to.visit(GuestGetHostName {}, HostName { host_name: "guest1".into() });
    let system = OsInfo {
        kernel_release: text("6.12.0-1-amd64"),
        kernel_version: text("#1 SMP PREEMPT_DYNAMIC Debian 6.12.1-1"),
        machine: text("x86_64"),
        id: text("debian"),
        name: text("Debian GNU/Linux"),
        pretty_name: text("Debian GNU/Linux 13 (trixie)"),
        version: text("13 (trixie)"),
        version_id: text("13"),
        variant: text("Server"),
        variant_id: text("server"),
    };
    to.visit(GuestGetOsinfo {}, system);
    to.visit(GuestGetOsinfo {}, OsInfo::default());
    to.visit(GuestGetTimezone {}, Timezone { zone: text("CEST"), offset: 7200 });
    to.visit(GuestGetTimezone {}, Timezone { zone: None, offset: -12_600 });
    to.visit(GuestGetLoad {}, LoadAverage { load1m: 0.5537109375, load5m: 0.25, load15m: 0.125 });
    let user = |domain| User { user: "alice".into(), login_time: 1_764_289_000.25, domain };
    to.visit(GuestGetUsers {}, vec![user(None)]);
    to.visit(GuestGetUsers {}, vec![user(text("CORP"))]);
    let device = DeviceInfo {
        driver_name: "Red Hat VirtIO Ethernet Adapter".into(),
        driver_date: Some(1_705_276_800_000_000_000),
        driver_version: text("100.95.104.24800"),
        id: Some(DeviceId::Pci(DeviceIdPci { vendor_id: 0x1af4, device_id: 0x1041 })),
    };
    let bare = DeviceInfo { driver_date: None, driver_version: None, id: None, ..device.clone() };
    to.visit(GuestGetDevices {}, vec![device]);
    to.visit(GuestGetDevices {}, vec![bare]);
}
