/* SPDX-License-Identifier: Apache-2.0 */
/*
 * callout.c - the interpreter's work, done from host code that then goes on.
 *
 * Rare instructions of the system are the interpreter's own operations; a
 * jump to where no host code is known is its search for a block. Either is
 * called with the state exact and everything that is the guest's in icpu, so a
 * fault may unwind past the host code that called. What comes back is where
 * host code goes on: behind the instruction, or wherever RIP is by then.
 */
#include "engine/bt/bt.h"
#include "engine/bt/xlate.h"
#include "engine/interp/ops.h"

/* ---- in C ---- */

typedef const u8 *callout_fn(struct icpu *cpu, u32 value);

static const u8 *find(struct icpu *cpu, u32 unused)
{
	struct bt *bt = bt_of(cpu);

	(void)unused;
	bt->stats.target_misses++;
	bt->area->vector_wanted = 0;
	cpu->link = NULL;
	return bt_dispatch(bt);
}

enum { NO_OUT = 0xffffffff };

/* To no address: the fault is that of the instruction that goes there. */
static const u8 *go_back(struct bt *bt, u32 at)
{
	const struct bt_out *out = (const void *)(bt->meta + at);

	bt->area->vector_wanted = 0;
	bt->cpu->gpr[GPR_RSP] -= (u64)(s64)out->moved;
	bt->area->again = at;
	return bt->exit_again;
}

/* What the table says may be dead: never for who comes from there. */
static const u8 *find_second(struct icpu *cpu, u32 at)
{
	struct bt *bt = bt_of(cpu);
	const u8 *host = NULL;

	if (unlikely(at != NO_OUT && icpu_code64(cpu) &&
	             !icpu_canonical(cpu->rip)))
		return go_back(bt, at);
	if (likely(
		!atomic_load_explicit(&cpu->attention, memory_order_relaxed)))
		host = bt_second_target(bt);
	if (unlikely(!host))
		return find(cpu, at);
	bt->area->vector_wanted = 0;
	return host;
}

/* The operation is done, and RIP says already what comes next. */
static struct block *op_back(struct icpu *cpu, struct iop *op)
{
	(void)cpu;
	(void)op;
	return NULL;
}

static void run_operation(struct bt *bt, const struct bt_out *out, u64 next)
{
	struct icpu *cpu = bt->cpu;
	struct block *b = out->block;

	bt->one[0] = b->op[out->op];
	if (!out->op)
		bt->one[0].fn = b->first;
	bt->one[1].fn = op_back;
	cpu->block = b;
	cpu->rip = next;
	bt->one[0].fn(cpu, bt->one);
	cpu->cur = NULL;
}

static const u8 *callout(struct icpu *cpu, u32 at)
{
	struct bt *bt = bt_of(cpu);
	const struct bt_out *out = (const void *)(bt->meta + at);
	struct block *b = out->block;
	u64 targets = cpu->targets, next;
	u32 key = cpu->key;

	bt->area->vector_wanted = 0;
	cpu->link = NULL;
	if (unlikely(!bt_has_ops(bt, b) || b->op[out->op].off != out->off)) {
		cpu->rip = cpu->pcbase + out->off;
		return bt->exit_known;
	}
	next =
	    (cpu->pcbase + out->off + b->op[out->op].len) & icpu_ip_mask(cpu);
	run_operation(bt, out, next);
	if (unlikely(
		cpu->rip != next || cpu->key != key ||
		cpu->targets != targets || !b->key || cpu->stopped ||
		cpu->halted ||
		atomic_load_explicit(&cpu->attention, memory_order_relaxed)))
		return bt_dispatch(bt);
	bt_sync(bt);
	bt->area->vector_wanted = !bt->area->vector_was_absent;
	return bt->area->resume;
}

/* ---- the way there and back ---- */

static void move_registers(struct cursor *c, bool store)
{
	for (unsigned r = GPR_RAX; r <= GPR_R12; r++)
		if (store)
			asm_store_gs(c, x_home(r), GPR(r));
		else
			asm_load_gs(c, x_home(r), GPR(r));
}

/* Goes on where C says; R15 is its argument. */
static void emit_call(struct bt *bt, struct cursor *c, callout_fn *fn)
{
	u8 *absent, *unwanted;

	move_registers(c, true);
	asm_store_gs(c, H_RSP, AREA(helper_rsp));
	asm_bytes(c, "\x48\x83\xe4\xf0", 4); /* and rsp, -16 */
	asm_load_gs32(c, H_RAX, AREA(vector_absent));
	asm_store_gs32(c, H_RAX, AREA(vector_was_absent));
	asm_bytes(c, "\x85\xc0", 2); /* test eax, eax */
	absent = asm_jcc(c, CC_NE);
	asm_call_to(c, bt->save_vector);
	asm_patch(c, absent);
	asm_load_gs(c, H_RDI, AREA(cpu));
	asm_rr(c, false, 0x8b, H_RSI, H_S1);
	asm_mov_imm64(c, H_RAX, (uintptr_t)fn);
	asm_bytes(c, "\xff\xd0", 2); /* call rax */
	asm_load_gs(c, H_RSP, AREA(helper_rsp));
	asm_mov_rr(c, H_S1, H_RAX);
	asm_gs_digit(c, 0x83, ALU_CMP, AREA(vector_wanted));
	asm_8(c, 0);
	unwanted = asm_jcc(c, CC_E);
	asm_call_to(c, bt->load_vector);
	asm_patch(c, unwanted);
	move_registers(c, false);
	asm_bytes(c, "\x41\xff\xe7", 3); /* jmp r15 */
}

void bt_emit_callouts(struct bt *bt, struct cursor *c, const u8 *leave)
{
	bt->exit_known = cursor_x(c);
	asm_store_gs(c, H_RAX, GPR(GPR_RAX));
	asm_store_gs(c, H_RDX, GPR(GPR_RDX));
	asm_mov_imm64(c, H_RDX, BT_EXIT_RIP);
	asm_jmp_to(c, leave);

	bt->exit_again = cursor_x(c);
	asm_load_gs32(c, H_S1, AREA(again));
	asm_jmp_to(c, bt->exit_op_saved);

	bt->exit_rip = cursor_x(c);
	asm_mov_imm64(c, H_S1, NO_OUT);
	bt->exit_target = cursor_x(c);
	asm_store_gs(c, H_S0, CPU(rip));
	emit_call(bt, c, find_second);
	bt->exit_dead = cursor_x(c);
	asm_store_gs(c, H_S0, CPU(rip));
	emit_call(bt, c, find);

	bt->callout = cursor_x(c);
	asm_bytes(c, "\x41\x5e", 2); /* pop r14 */
	asm_store_gs(c, H_S0, AREA(resume));
	emit_call(bt, c, callout);
}

/* ---- which, and when ---- */

static bool of_any_level(const struct insn *in)
{
	switch (in->z.mnemonic) {
	case ZYDIS_MNEMONIC_CPUID:
	case ZYDIS_MNEMONIC_XGETBV:
	case ZYDIS_MNEMONIC_LDMXCSR:
	case ZYDIS_MNEMONIC_STMXCSR:
	case ZYDIS_MNEMONIC_FXSAVE:
	case ZYDIS_MNEMONIC_FXSAVE64:
	case ZYDIS_MNEMONIC_FXRSTOR:
	case ZYDIS_MNEMONIC_FXRSTOR64:
	case ZYDIS_MNEMONIC_XSAVE:
	case ZYDIS_MNEMONIC_XSAVE64:
	case ZYDIS_MNEMONIC_XSAVEC:
	case ZYDIS_MNEMONIC_XSAVEC64:
	case ZYDIS_MNEMONIC_XSAVEOPT:
	case ZYDIS_MNEMONIC_XSAVEOPT64:
	case ZYDIS_MNEMONIC_XRSTOR:
	case ZYDIS_MNEMONIC_XRSTOR64:
	case ZYDIS_MNEMONIC_RDRAND:
	case ZYDIS_MNEMONIC_RDSEED:
	case ZYDIS_MNEMONIC_RDPID:
	case ZYDIS_MNEMONIC_RDPKRU:
	case ZYDIS_MNEMONIC_WRPKRU:
	case ZYDIS_MNEMONIC_LAR:
	case ZYDIS_MNEMONIC_LSL:
	case ZYDIS_MNEMONIC_VERR:
	case ZYDIS_MNEMONIC_VERW:
	case ZYDIS_MNEMONIC_IN:
	case ZYDIS_MNEMONIC_OUT:
		return true;
	default:
		return in->z.meta.category == ZYDIS_CATEGORY_STRINGOP;
	}
}

static bool of_kernel(const struct insn *in)
{
	switch (in->z.mnemonic) {
	case ZYDIS_MNEMONIC_WRMSR:
	case ZYDIS_MNEMONIC_RDMSR:
	case ZYDIS_MNEMONIC_INVLPG:
	case ZYDIS_MNEMONIC_INVPCID:
	case ZYDIS_MNEMONIC_CLTS:
	case ZYDIS_MNEMONIC_XSAVES:
	case ZYDIS_MNEMONIC_XSAVES64:
	case ZYDIS_MNEMONIC_XRSTORS:
	case ZYDIS_MNEMONIC_XRSTORS64:
	case ZYDIS_MNEMONIC_SYSRET:
	case ZYDIS_MNEMONIC_IRETQ:
		return true;
	default:
		return false;
	}
}

/* Shadows and jumps are the interpreter's: not SS, and not CS. */
static bool special_move(const struct insn *in, bool kernel)
{
	const struct insn_operand *to = &in->op[0], *from = &in->op[1];

	if (in->z.mnemonic != ZYDIS_MNEMONIC_MOV)
		return false;
	if (to->kind == OPERAND_SEG)
		return to->reg != SEG_SS && to->reg != SEG_CS;
	return kernel && (to->kind == OPERAND_CR || to->kind == OPERAND_DR ||
	                  from->kind == OPERAND_CR || from->kind == OPERAND_DR);
}

bool bt_can_callout(u32 key, const struct insn *in)
{
	bool kernel = !(key & (KEY_USER | KEY_MIDDLE));

	return of_any_level(in) || special_move(in, kernel) ||
	       bt_can_callout32(in) || (kernel && of_kernel(in)) ||
	       (in->z.mnemonic == ZYDIS_MNEMONIC_SYSCALL && key & KEY_USER);
}

void x_callout(struct xlate *x, unsigned k)
{
	const struct insn *in = &x->insn[k];

	x_lose_spans(x);
	x_flags_clobber(x, x->live[k]);
	asm_mov_imm64(&x->c, H_S1, (u64)((u8 *)&x->code->out[k] - x->bt->meta));
	asm_call_to(&x->c, x->bt->callout);
	if (x_flags_written(in))
		x->at = FLAGS_SAVED;
	/* It may lead to what follows it. */
	switch (in->z.meta.category) {
	case ZYDIS_CATEGORY_RET:
	case ZYDIS_CATEGORY_SYSCALL:
	case ZYDIS_CATEGORY_SYSRET:
		x_go_on(x, x_end_of(x, k));
		break;
	default:
		break;
	}
}
