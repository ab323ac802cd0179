/* SPDX-License-Identifier: Apache-2.0 */
/*
 * icpu.h - the soft vCPU: guest state as the soft engines keep it, and what
 * may be done with it apart from any run loop.
 *
 * Guest faults unwind: icpu_fault() and everything that may raise one (all
 * memory access by linear address) jump to the innermost icpu_run* call. The
 * instruction at fault is cpu->cur, or none when events are being delivered;
 * nothing architectural may have been changed before the last possible fault.
 *
 * Threads: the vCPU's own, save for icpu_post*(), icpu_attend(), and what
 * says otherwise.
 */
#pragma once

#include <pthread.h>
#include <setjmp.h>
#include <stdatomic.h>

#include "base/types.h"
#include "engine/engine.h"
#include "guest/cpu.h"
#include "guest/memory.h"

struct block;
struct code_cache;
struct codepage;
struct cpuid_model;
struct hostop_pool;
struct icpu;
struct insn;
struct icpu_code_ops;
struct iop;
struct isystem;

enum {
	TLB_ENTRIES = 16384, /* per table */
	TLB_SPACES = 7,      /* address spaces (PCIDs) kept at a time */
	TLB_LOG = 1024,
	TLB_PIECE = 128,      /* entries of a table that fill a host page */
	TLB_WRITABLE = 32768, /* hashes of host pages that may be written */
	XTLB_ENTRIES = 512,
	EXEC_FILTER = 4096, /* hashes of pages that ran */
	EXEC_LARGE = 16,
	EXEC_LOG = 256,  /* user pages that are looked at after a flush */
	TLB_LARGE = 512, /* pieces of linear memory told apart for INVLPG */
	ICPU_AREA = 7552,
};

/* Which table of a space an access looks into. */
enum icpu_priv {
	PRIV_SUPER, /* supervisor, user pages refused under SMAP */
	PRIV_AC,    /* supervisor, RFLAGS.AC lifts SMAP */
	PRIV_USER,
	PRIV_COUNT
};

enum icpu_access { ACCESS_READ = 0, ACCESS_WRITE = 1, ACCESS_EXEC = 2 };

/*
 * A data TLB entry. An access at lin of size bytes hits if lin - tag is at
 * most PAGE_SIZE - size: right page, and not crossing. An invalid tag is that
 * of a page which belongs to another entry, so it can never hit.
 */
struct tlb_entry {
	u64 rtag, wtag;
	u64 addend; /* host address = lin + addend */
	u64 gpa;    /* of the page; bit 0: global, and ENTRY_KEY */
};

/*
 * In the low bits of tlb_entry.gpa: 1 + the protection key that the entry hangs
 * on, those of supervisor pages after those of users'; 0 if it does on none.
 */
enum { KEYS = 16, ENTRY_KEY_SHIFT = 1, ENTRY_KEY = 63 };

struct xtlb_entry {
	u64 tag; /* linear page | 1 when valid */
	struct codepage *page;
	bool global;
};

/*
 * What code has run, of user or of supervisor pages: targets of jumps that are
 * remembered by linear address are good for one generation of it. Where the
 * pages are is noted, small ones by a hash, so that INVLPG knows whether it
 * takes some of them back.
 */
struct exec_half {
	u64 generation;
	u32 large_count;       /* more than EXEC_LARGE: anywhere */
	u8 sides;              /* bit 0: low addresses, 1: high ones */
	u64 large[EXEC_LARGE]; /* pieces of 4 MiB in which large pages ran */
	u64 page[EXEC_FILTER / 64];
};

/* What has been filled of a table since it was empty. */
struct tlb_fills {
	u32 count;  /* of entries, up to TLB_LOG + 1 */
	bool local; /* some are not global */
	u32 keys;   /* that some hang on, a bit each */
	u16 log[TLB_LOG];
	/* Those pieces of the table that are not all empty. */
	u64 piece[TLB_ENTRIES / TLB_PIECE / 64];
	/* Hashes of host pages that write tags lead to. */
	u64 writable[TLB_WRITABLE / 64];
};

struct tlb_space {
	/* On pages of their own: none but those in use are ever touched. */
	_Alignas(PAGE_SIZE) struct tlb_entry data[PRIV_COUNT][TLB_ENTRIES];
	struct tlb_fills fills[PRIV_COUNT];
	struct xtlb_entry exec[2][XTLB_ENTRIES]; /* by CPL 3 or not */
	u64 pcid;
	u64 used;    /* for choosing a victim */
	u64 flushes; /* grows when entries that are not global may go */
	struct exec_half user;
	/*
	 * Supervisor code is global as a rule and all spaces share one half for
	 * it, icpu.global_code; a space that ran some which is not has its own.
	 */
	struct exec_half own;
	bool local;     /* own is in use */
	bool unsure;    /* user pages are walked again before they run */
	u32 exec_count; /* of this generation; more than EXEC_LOG: too many */
	u16 exec_log[EXEC_LOG]; /* their places in exec[1] */
	/*
	 * Where entries stem from large pages, by bits 22 and up of the linear
	 * address, and from 1 GiB pages: global ones and others. INVLPG drops
	 * the whole of such a page.
	 */
	u64 large[2][TLB_LARGE / 64];
	u64 giant[2];
};

/* What decoded code depends on besides its bytes; never 0. */
enum {
	KEY_VALID = 1 << 0,
	KEY_CODE32 = 1 << 1, /* CS.D */
	KEY_CODE64 = 1 << 2,
	KEY_STACK32 = 1 << 3, /* SS.B; in 64-bit code always 64 */
	KEY_REAL = 1 << 4,    /* real or V86 mode: no VEX, and so on */
	KEY_USER = 1 << 5,    /* CPL 3: keeps user blocks apart */
	KEY_FLAT_ES =
	    1 << 6, /* base 0, limit 4 GiB, writable: << enum cpu_seg */
	KEY_FLAT_CS = 1 << 7,
	KEY_FLAT_SS = 1 << 8,
	KEY_FLAT_DS = 1 << 9,
	KEY_ALIGN = 1 << 10, /* #AC checked */
	KEY_STEP = 1 << 11,  /* one instruction a block, looked at after each */
	KEY_FPU_DENY = 1 << 12, /* some of fpu_deny is set */
	KEY_MIDDLE = 1 << 13,   /* CPL 1 or 2 */
};

/* cpu->attention */
enum {
	ATTEND_KICK = 1 << 0,
	ATTEND_IRQ = 1 << 1, /* the controller may have something */
	ATTEND_NMI = 1 << 2,
	ATTEND_MAIL = 1 << 3,  /* invalidations from other threads */
	ATTEND_STOP = 1 << 4,  /* another vCPU wants the world stopped */
	ATTEND_LOCAL = 1 << 5, /* an event of our own waits */
};

/* Why fast x87/SSE/AVX code must not run; see op_host.c. */
enum {
	FPU_DENY_X87_NM = 1 << 0,  /* CR0.TS or EM */
	FPU_DENY_MMX_UD = 1 << 1,  /* CR0.EM */
	FPU_DENY_SSE_UD = 1 << 2,  /* CR0.EM or no OSFXSR */
	FPU_DENY_AVX_UD = 1 << 3,  /* no OSXSAVE, XCR0, or not protected mode */
	FPU_DENY_NM = 1 << 4,      /* CR0.TS */
	FPU_DENY_WAIT_NM = 1 << 5, /* CR0.TS and MP */
};

struct icpu_fault {
	u8 vector;
	bool has_error;
	u32 error;
};

struct icpu_mail {
	pthread_mutex_t lock;
	bool flush_code; /* all of it */
	bool write_tags; /* drop every write tag (dirty log) */
	u32 count;
	u8 *page[32]; /* host pages whose decoded code is stale */
	u32 untag_count;
	u8 *untag[8];     /* host pages whose write tags must go */
	u64 posted, done; /* untag requests, for who waits on them */
};

struct jump_entry {
	u64 pc; /* linear */
	u64 generation;
	struct block *block;
};
/* Few at first: what an idle guest runs is little, and lies anywhere. All once
 * so many have pushed others out. */
enum { JUMP_ENTRIES = 16384, JUMP_FEW = 2048, JUMP_PUSHED = 16384 };

/* icpu.targets, before user pages have been looked at: tlb_settle(). */
enum { UNSETTLED = 1 };

struct icpu {
	/* What decoded operations address by offset. */
	u64 gpr[GPR_COUNT];
	u64 zero;   /* the register that is not there */
	u64 pcbase; /* RIP minus offset in page, of the running block */

	u64 rip;   /* exact between blocks */
	u16 flags; /* status flags as LAHF and SETO leave AX */
	u8 cpl;
	u8 priv;               /* enum icpu_priv of explicit accesses */
	u32 sysflags;          /* the rest of RFLAGS, bit 1 set */
	struct tlb_entry *tlb; /* space->data[priv] */
	/* With six of these bytes, an address of bt's or zeros, attention
	 * reads as an address: that one, or else none at all (bt's polls). */
	u8 below_attention[8];
	_Atomic u32 attention;
	u32 key;
	u32 fpu_deny; /* FPU_DENY_* */
	struct block *block;
	struct iop *cur;     /* set before anything that may fault */
	struct block **link; /* the last block's wish to be linked */
	u64 icount;
	u64 csbase; /* 0 in 64-bit code */

	struct cpu_segment seg[SEG_COUNT];
	struct cpu_segment ldtr, tr;
	struct cpu_table gdtr, idtr;

	_Alignas(64) u8 xsave[CPU_XSAVE_SIZE];

	u64 cr0, cr2, cr3, cr4, efer, xcr0;
	u64 dr[8];
	u64 pdpte[4]; /* PAE without long mode */
	u64 star, lstar, cstar, sfmask, kernel_gs_base;
	u64 sysenter_cs, sysenter_esp, sysenter_eip;
	u64 tsc_aux, pat, misc_enable, xss, tsc_adjust;
	u64 pkru, pkrs;         /* change by x86/keys.h */
	_Atomic u64 tsc_offset; /* guest = host + offset; others read it */
	u64 cr8;                /* only when the host has no tpr_get */
	struct cpu_mtrr mtrr;
	u64 amd_hwcr, amd_de_cfg, patch_level, mcg_status, debugctl;

	/* Events. */
	struct cpu_events events;
	bool halted;
	enum cpu_mp_state mp_state;
	bool irq_wait;  /* ATTEND_IRQ came while IF was clear */
	bool shadow;    /* the next instruction follows STI or MOV SS */
	bool shadow_ss; /* ...MOV SS: holds #DB back too */
	bool nmi_masked;
	bool stepping;        /* the debugger's */
	bool resume_at_break; /* not to stop at the same place again */
	bool stepped;         /* an instruction or delivery was finished */
	u64 budget;     /* instructions icpu_step() may still run; 0: any */
	bool debug_hit; /* a debugger's watchpoint, after the instruction */
	gva_t debug_address;
	bool skip_trap; /* INT n and SYSCALL clear TF before it traps */
	u64 pending_db; /* DR6 bits of traps to raise after this one */
	int delivering; /* vector whose delivery may fault, or -1 */
	bool external;  /* EXT bit of error codes raised now */
	struct icpu_fault fault;
	enum vcpu_exit_reason stop; /* valid when stopped */
	bool stopped;
	const char *stop_words;
	char words[160];

	struct vcpu_breakpoint *points; /* the debugger's; owned */
	size_t point_count;

	void *env[5]; /* __builtin_setjmp of the innermost run */

	struct tlb_space *space; /* current */
	struct tlb_space *spaces;
	u32 spaces_used; /* a bit each; of others none is touched */
	u64 generation;  /* the last one given out; never reused */
	u64 targets;     /* the one that holds for jumps now, or UNSETTLED */
	struct exec_half global_code;
	u64 use_clock;
	struct jump_entry *jump;
	u32 jump_mask; /* of what is in use of it */
	u32 jump_pushed;
	struct code_cache *code;
	struct hostop_pool *spare; /* for one stub, when the system's is full */
	struct iop *spare_op;

	/* Others may look at these. */
	_Atomic u32 nmis;    /* posted and not taken yet, at most 2 */
	_Atomic u32 running; /* inside guest code: may hold host pointers */
	bool world_held;     /* this vCPU has stopped the others */
	struct icpu_mail mail;
	u64 stats[STAT_COUNT];

	struct isystem *sys; /* borrowed */
	struct vcpu_host host;
	const struct cpuid_model *cpuid;
	unsigned index;
	u64 reserved; /* physical address bits that do not exist */
	bool pge1g, amd;

	/*
	 * For a vCPU that only tries out what another would do: where it is to
	 * read and write instead of this page of RAM. code: it holds decoded
	 * code, and it is a write. NULL in a vCPU that is one.
	 */
	u8 *(*trial)(struct icpu *cpu, u8 *page, bool write, bool code);
	/* ...which is a page of tables that it walks: may raise a stop. */
	void (*trial_table)(struct icpu *cpu, const u8 *page);
	void *trial_ctx;
	/* For an engine that stands on this one (bt); NULL without. */
	const struct icpu_code_ops *code_ops;
	u64 tlb_epoch; /* grows when global entries or write tags may go */
	_Alignas(64) u64 area[ICPU_AREA]; /* what it keeps within reach */
};

/* Told on the vCPU's thread, never while translated code runs. */
struct icpu_code_ops {
	void (*made)(struct icpu *cpu, struct block *b);
	void (*died)(struct icpu *cpu, struct block *b);
	void (*flushed)(struct icpu *cpu); /* every block is gone */
	/* Bytes of code that it has made of blocks. */
	u64 (*held)(const struct icpu *cpu);
	/* A block with made set has lost its operations: see to its op. */
	void (*forgot)(struct icpu *cpu, struct block *b);
	/* What the TLB said of this linear page holds no longer. */
	void (*page_gone)(struct icpu *cpu, gva_t lin);
	/* Shall a block of this key end with the instruction? */
	bool (*splits)(struct icpu *cpu, u32 key, const struct insn *insn);
	/* Blocks of this key end behind a conditional jump until they are
	 * extended (code.h): most of what is behind one never runs. */
	bool (*brief)(struct icpu *cpu, u32 key);
};

/* Everything that the vCPUs of one machine share. */
enum { ISYSTEM_SLOTS = 32, ISYSTEM_CPUS = 64 };
struct code_meta {    /* of one RAM page */
	u64 granules; /* 64-byte pieces that hold decoded code */
	u32 misses;   /* stores that met none of them */
};
struct isystem {
	struct memory *memory;          /* borrowed */
	const _Atomic bool *incomplete; /* memory_incomplete() */
	const struct cpuid_model *cpuid;
	struct icpu **cpu; /* borrowed; by index */
	unsigned cpus;
	u64 code_bytes; /* of each vCPU's cache */
	/* A copy of the slots for speed. */
	size_t slot_count;
	struct isystem_slot {
		gpa_t base;
		u64 size;
		u8 *host;
		_Atomic u8 *page;
		bool rom;
		struct code_meta *meta; /* shared with an alias's target */
		bool meta_owned;
	} slot[ISYSTEM_SLOTS];
	pthread_mutex_t code_lock;  /* metas and PAGE_CODE */
	pthread_mutex_t world_lock; /* who may stop the world */
	_Atomic bool stopping;      /* someone does */
	struct hostop_pool *hostops;
	struct insn_decoder *decoder; /* owned */
};

int isystem_create(struct isystem **out, const struct engine_config *config,
                   struct error *err) MUST_CHECK;
/* While no vCPU runs: see engine_type.let_go. */
void isystem_let_go(struct isystem *sys);
void isystem_destroy(struct isystem *sys);

int icpu_create(struct icpu **out, struct isystem *sys, unsigned index,
                const struct vcpu_host *host, struct error *err) MUST_CHECK;
void icpu_destroy(struct icpu *cpu); /* NULL is legal */

/* ---- state (state.c) ---- */
void icpu_get(struct icpu *cpu, struct cpu_state *state);
int icpu_set(struct icpu *cpu, const struct cpu_state *state,
             struct error *err);
/* As icpu_set(), where no translation has changed and the state is another
 * vCPU's: the TLB is kept. */
void icpu_set_registers(struct icpu *cpu, const struct cpu_state *state);
u64 icpu_rflags(const struct icpu *cpu);
void icpu_set_rflags(struct icpu *cpu, u64 rflags); /* then icpu_update() */
/* Recompute key, priv, tlb, csbase, fpu_deny after state changed. */
void icpu_update(struct icpu *cpu);

/* ---- running (run.c) ---- */
/* Until something for the machine happens. */
void icpu_run(struct icpu *cpu, struct vcpu_exit *exit);
/* It is about to sleep (code.c): see vcpu_rest. */
u64 icpu_rest(struct icpu *cpu);
/* While it does not run: see isystem_let_go(). */
void icpu_let_go(struct icpu *cpu);
/*
 * Interpret at most n instructions from the exact state, delivering their
 * faults, and leave early at anything icpu_run() would leave for. Returns
 * false if exit says why it left. The state is exact afterwards.
 */
bool icpu_step(struct icpu *cpu, u64 n, struct vcpu_exit *exit);
/* Any thread. */
void icpu_attend(struct icpu *cpu, u32 bits);
void icpu_post_nmi(struct icpu *cpu);

/* ---- faults (run.c) ---- */
NORETURN void icpu_fault(struct icpu *cpu, u8 vector);
NORETURN void icpu_fault_error(struct icpu *cpu, u8 vector, u32 error);
NORETURN void icpu_page_fault(struct icpu *cpu, gva_t lin, u32 error);
/* A condition that the engine cannot go on from, in words. */
NORETURN void icpu_stop_error(struct icpu *cpu, const char *words);

static inline NORETURN void icpu_gp(struct icpu *cpu)
{
	icpu_fault_error(cpu, VEC_GP, 0);
}
static inline NORETURN void icpu_ud(struct icpu *cpu)
{
	icpu_fault(cpu, VEC_UD);
}

/* ---- modes ---- */
static inline bool icpu_protected(const struct icpu *cpu)
{
	return cpu->cr0 & CR0_PE;
}
static inline bool icpu_v86(const struct icpu *cpu)
{
	return cpu->sysflags & RFLAGS_VM;
}
/* Real-address or virtual-8086 mode: segments are selector * 16. */
static inline bool icpu_real_or_v86(const struct icpu *cpu)
{
	return !icpu_protected(cpu) || icpu_v86(cpu);
}
static inline bool icpu_long(const struct icpu *cpu)
{
	return cpu->efer & EFER_LMA;
}
static inline bool icpu_code64(const struct icpu *cpu)
{
	return cpu->key & KEY_CODE64;
}
static inline unsigned icpu_iopl(const struct icpu *cpu)
{
	return cpu->sysflags >> RFLAGS_IOPL_SHIFT & 3;
}
static inline bool icpu_canonical(u64 a)
{
	return (u64)((s64)(a << 16) >> 16) == a;
}
static inline u64 icpu_ip_mask(const struct icpu *cpu)
{
	return cpu->key & KEY_CODE64   ? ~(u64)0
	       : cpu->key & KEY_CODE32 ? 0xffffffff
	                               : 0xffff;
}
/* CPUID leaf 0's EBX: AuthenticAMD or HygonGenuine. */
static inline bool icpu_vendor_amd(u32 ebx)
{
	return ebx == 0x68747541 || ebx == 0x6f677948;
}
u64 icpu_tsc(const struct icpu *cpu);

/* ---- guest memory by linear address (mem.c); each may fault ---- */
u64 icpu_load(struct icpu *cpu, gva_t lin, unsigned size, unsigned priv);
void icpu_store(struct icpu *cpu, gva_t lin, u64 value, unsigned size,
                unsigned priv);
/* len bytes, across pages; a copy in or out. */
void icpu_read(struct icpu *cpu, gva_t lin, void *buf, size_t len,
               unsigned priv);
void icpu_write(struct icpu *cpu, gva_t lin, const void *buf, size_t len,
                unsigned priv);
/* Fault now if such an access would; len at most a page. */
void icpu_probe(struct icpu *cpu, gva_t lin, size_t len,
                enum icpu_access access, unsigned priv);
/*
 * Host address of the byte at lin if it is plain RAM (or ROM, for reading)
 * that needs no notice, filling the TLB; NULL if not. May fault.
 */
u8 *icpu_host(struct icpu *cpu, gva_t lin, enum icpu_access access,
              unsigned priv);

/*
 * A locked read-modify-write of size bytes (1 to 16): begin gives an address
 * to work on by host atomics, end makes it seen. Page-crossing and device
 * accesses go through a copy, with the world stopped.
 */
struct icpu_rmw {
	void *p;
	gva_t lin;
	u8 size;
	bool copy, world;
	u8 *watched; /* host page whose code is to be invalidated */
	gpa_t gpa;
	unsigned priv;
	_Alignas(16) u8 buf[16];
};
void icpu_rmw_begin(struct icpu *cpu, gva_t lin, unsigned size,
                    struct icpu_rmw *rmw);
void icpu_rmw_end(struct icpu *cpu, struct icpu_rmw *rmw);

/* Physical, for page tables and the like; all ones where nothing is. */
/* The slot that holds gpa, whose page is there; NULL: none. */
const struct isystem_slot *isystem_slot(const struct isystem *sys, gpa_t gpa);

/* TLB */
/*
 * Fill the entry for an access at lin, so that it hits, without faulting.
 * false: it would fault, or is not plain RAM, or is watched. write: to be
 * written; now: by this access, so that the dirty bit may be set.
 */
bool icpu_tlb_fill(struct icpu *cpu, gva_t lin, bool write, bool now);
/* CPL or the space changed: which generation holds for jumps? */
void icpu_tlb_retarget(struct icpu *cpu);
void icpu_tlb_flush(struct icpu *cpu, bool global); /* all PCIDs if global */
void icpu_tlb_flush_page(struct icpu *cpu, gva_t lin);
void icpu_tlb_flush_pcid(struct icpu *cpu, u64 pcid);
void icpu_tlb_flush_pcid_page(struct icpu *cpu, u64 pcid, gva_t lin);
void icpu_tlb_drop_writes(struct icpu *cpu, const u8 *host); /* NULL: all */
/* A bit for each protection key that lost a right: in all spaces. */
void icpu_tlb_drop_keys(struct icpu *cpu, u32 keys);
/* Switch to the space of this PCID, flushing its non-global entries or not. */
void icpu_tlb_switch(struct icpu *cpu, u64 pcid, bool flush);

/* ---- segments ---- */
/* Linear address of [off, off+size) in seg after all checks, or a fault. */
gva_t icpu_linear(struct icpu *cpu, unsigned seg, u64 off, unsigned size,
                  enum icpu_access access);

/* ---- decoded code (block.c, code.c) ---- */
/* The block at rip, made if need be; may fault. */
struct block *icpu_find_block(struct icpu *cpu);
/* Bytes of a RAM page changed: forget what was decoded of them, here and, by
 * mail, in the other vCPUs. cpu may be NULL: another thread wrote. */
void isystem_code_written(struct isystem *sys, struct icpu *cpu, gpa_t gpa,
                          u64 len);
/* Act on what other threads posted. In the middle of an instruction decoded
 * code is killed but its memory kept; between instructions all is done. */
void icpu_read_mail(struct icpu *cpu, bool between);
/* Decoded code of this host page is stale in this vCPU. */
void icpu_kill_page(struct icpu *cpu, const u8 *host);

/* ---- the world (world.c) ---- */
/* Waits until no other vCPU is inside guest code; pairs. */
void icpu_world_stop(struct icpu *cpu);
void icpu_world_start(struct icpu *cpu);
/* Around callbacks into the machine, and vcpu_run itself. */
void icpu_enter_guest(struct icpu *cpu);
void icpu_leave_guest(struct icpu *cpu);
/* Other vCPUs must forget write tags of this host page: returns once no
 * one can use one any more. NULL: of all pages. */
void icpu_untag_others(struct isystem *sys, struct icpu *cpu, u8 *host);
/* Any thread: stale decoded code, by mail. */
void icpu_post_page(struct icpu *cpu, u8 *host);
