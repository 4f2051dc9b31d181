"""The SEV-SNP attestation report: 1184 bytes, little-endian, versions 2 to 5 (AMD document 56860, table 23).

Version 3 added the CPUID of the machine, version 5 the mitigation vectors; version 4 has the layout of version 3. Bytes
0 to 0x2A0 are signed. What stands after them is the signature and zeros, and proves nothing.

    0x000 version u32        0x040 platform info u64   0x0C0 host data 32       0x180 reported TCB 8
    0x004 guest SVN u32      0x048 flags u32           0x0E0 id key digest 48   0x188 CPUID, 3 (from version 3)
    0x008 policy u64         0x04C reserved 4          0x110 author key dig. 48 0x18B reserved 21
    0x010 family id 16       0x050 report data 64      0x140 report id 32       0x1A0 chip id 64
    0x020 image id 16        0x090 measurement 48      0x160 report id MA 32    0x1E0 committed TCB 8
    0x030 VMPL u32           0x1E8 current firmware: build, minor, major, reserved; 0x1EC committed firmware
    0x034 algorithm u32      0x1F0 launch TCB 8        0x1F8 two mitigation vectors u64 (version 5)
    0x038 current TCB 8      0x2A0 r 72, s 72, zero 368
"""

from __future__ import annotations

import struct

import msgspec

from .findings import NotAuthentic

REPORT_BYTES = 0x4A0
SIGNED_BYTES = 0x2A0
VERSIONS = (2, 3, 4, 5)
ECDSA_P384_SHA384 = 1

_LAYOUT = struct.Struct("<IIQ16s16sII8sQII64s48s32s48s48s32s32s8s3s21s64s8s4s4s8sQQ152s72s72s368s")
assert _LAYOUT.size == REPORT_BYTES

_POLICY_BITS = {
    "smt_allowed": 16,
    "reserved1": 17,  # must be one
    "migrate_ma": 18,
    "debug": 19,
    "single_socket": 20,
    "cxl_allowed": 21,
    "mem_aes_256_xts": 22,
    "rapl_dis": 23,
    "ciphertext_hiding": 24,
    "page_swap_disable": 25,
}
_POLICY_END = 26
_PLATFORM_BITS = {
    "smt_en": 0,
    "tsme_en": 1,
    "ecc_en": 2,
    "rapl_dis": 3,
    "ciphertext_hiding_en": 4,
    "alias_check_complete": 5,
    "tio_en": 7,
}
_SIGNING_KEYS = {0: "VCEK", 1: "VLEK", 7: "none"}
_FLAGS_END = 5

#: Which byte of a TCB_VERSION counts which component; Turin put the FMC first and moved the others.
_TCB = {"bl": 0, "tee": 1, "snp": 6, "ucode": 7}
_TCB_TURIN = {"fmc": 0, "bl": 1, "tee": 2, "snp": 3, "ucode": 7}


class SnpReport(msgspec.Struct, frozen=True):
    """A parsed report. `cpuid` is family, model, stepping; firmware versions are major, minor, build."""

    signed: bytes
    version: int
    guest_svn: int
    policy: int
    family_id: bytes
    image_id: bytes
    vmpl: int
    algorithm: int
    current_tcb: bytes
    platform_info: int
    flags: int
    report_data: bytes
    measurement: bytes
    host_data: bytes
    id_key_digest: bytes
    author_key_digest: bytes
    report_id: bytes
    report_id_ma: bytes
    reported_tcb: bytes
    cpuid: tuple[int, int, int] | None
    chip_id: bytes
    committed_tcb: bytes
    current_firmware: tuple[int, int, int]
    committed_firmware: tuple[int, int, int]
    launch_tcb: bytes
    mitigations: tuple[int, int] | None
    r: int
    s: int
    after_signature: bytes

    @property
    def signing_key(self) -> str:
        """VCEK, VLEK, none, or reserved."""
        return _SIGNING_KEYS.get(self.flags >> 2 & 7, "reserved")

    @property
    def mask_chip_key(self) -> bool:
        """Whether the machine was told to sign with no key of its own."""
        return bool(self.flags & 2)

    @property
    def debug(self) -> bool:
        """Whether the host may read and write the guest's memory."""
        return bool(self.policy >> _POLICY_BITS["debug"] & 1)

    @property
    def migratable(self) -> bool:
        """Whether a migration agent may move the guest, and so see it."""
        return bool(self.policy >> _POLICY_BITS["migrate_ma"] & 1)

    @property
    def provisional(self) -> bool:
        """Whether the running firmware is not committed, so that the host can go back to an older one."""
        return self.current_firmware != self.committed_firmware or self.current_tcb != self.committed_tcb

    def policy_bits(self) -> dict[str, int | bool]:
        """The guest policy by name."""
        abi = {"abi_minor": self.policy & 0xFF, "abi_major": self.policy >> 8 & 0xFF}
        return abi | {name: bool(self.policy >> bit & 1) for name, bit in _POLICY_BITS.items()}

    def platform_bits(self) -> dict[str, bool]:
        """The platform's state by name."""
        return {name: bool(self.platform_info >> bit & 1) for name, bit in _PLATFORM_BITS.items()}


def parse_snp_report(data: bytes) -> SnpReport:
    """The report in `data`, exactly 1184 bytes. Raises `NotAuthentic` with a `snp_…` reason for anything else."""
    if len(data) != REPORT_BYTES:
        raise NotAuthentic(f"a report has {len(data)} bytes", reason="snp_bad_length", expected=str(REPORT_BYTES))
    (
        version, guest_svn, policy, family_id, image_id, vmpl, algorithm, current_tcb, platform_info, flags,
        reserved_4c, report_data, measurement, host_data, id_key_digest, author_key_digest, report_id,
        report_id_ma, reported_tcb, cpuid, reserved_18b, chip_id, committed_tcb, current, committed, launch_tcb,
        launch_mit, current_mit, reserved_208, r, s, after_signature,
    ) = _LAYOUT.unpack(data)  # fmt: skip
    if version not in VERSIONS:
        raise NotAuthentic(
            f"report version {version} is not known", reason="snp_bad_version", found=str(version), expected="2 to 5"
        )
    reserved = [(reserved_4c, 0), (reserved_18b, bytes(21)), (current[3], 0), (committed[3], 0)]
    reserved += [(reserved_208, bytes(152)), (policy >> _POLICY_END, 0), (flags >> _FLAGS_END, 0)]
    if version < 3:
        reserved.append((cpuid, bytes(3)))
    if version < 5:
        reserved += [(launch_mit, 0), (current_mit, 0)]
    if any(value != zero for value, zero in reserved):
        raise NotAuthentic("a reserved field of the report is not zero", reason="snp_reserved_nonzero")
    if not policy >> _POLICY_BITS["reserved1"] & 1:
        raise NotAuthentic("bit 17 of the guest policy is not one", reason="snp_policy_bit17_clear")
    return SnpReport(
        signed=data[:SIGNED_BYTES],
        version=version,
        guest_svn=guest_svn,
        policy=policy,
        family_id=family_id,
        image_id=image_id,
        vmpl=vmpl,
        algorithm=algorithm,
        current_tcb=current_tcb,
        platform_info=platform_info,
        flags=flags,
        report_data=report_data,
        measurement=measurement,
        host_data=host_data,
        id_key_digest=id_key_digest,
        author_key_digest=author_key_digest,
        report_id=report_id,
        report_id_ma=report_id_ma,
        reported_tcb=reported_tcb,
        cpuid=(cpuid[0], cpuid[1], cpuid[2]) if version >= 3 else None,
        chip_id=chip_id,
        committed_tcb=committed_tcb,
        current_firmware=(current[2], current[1], current[0]),
        committed_firmware=(committed[2], committed[1], committed[0]),
        launch_tcb=launch_tcb,
        mitigations=(launch_mit, current_mit) if version >= 5 else None,
        r=int.from_bytes(r, "little"),
        s=int.from_bytes(s, "little"),
        after_signature=after_signature,
    )


def tcb_parts(value: bytes, *, turin: bool) -> dict[str, int]:
    """The components of a TCB_VERSION by name. Raises `NotAuthentic` when one of its reserved bytes is not zero."""
    places = _TCB_TURIN if turin else _TCB
    if any(byte for at, byte in enumerate(value) if at not in places.values()):
        raise NotAuthentic("a reserved byte of a TCB version is not zero", reason="snp_reserved_nonzero")
    return {name: value[at] for name, at in places.items()}
