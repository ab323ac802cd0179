/* SPDX-License-Identifier: Apache-2.0 */
/*
 * snippets.S - guest code for the engine tests, by mode. Each is copied to
 * 0x8000 (GUEST_CODE); the other addresses are those of guest.h.
 */
#define DATA 0x40000
#define USER 0x100000
#define MMIO 0xfee10000

.macro BEGIN name
	.globl \name
\name:
.endm
.macro END name
	.globl \name\()_end
\name\()_end:
.endm

	.section .rodata

/* ---- 64-bit ---- */
	.code64
BEGIN snip64_sum
	xor %eax, %eax
	mov $1000, %ecx
1:	add %rcx, %rax
	dec %ecx
	jnz 1b
	hlt
END snip64_sum

BEGIN snip64_call
	mov $10, %edi
	call fib
	hlt
fib:	cmp $2, %edi
	jae 1f
	mov %edi, %eax
	ret
1:	push %rbx
	push %rdi
	dec %edi
	call fib
	mov %eax, %ebx
	pop %rdi
	sub $2, %edi
	call fib
	add %ebx, %eax
	pop %rbx
	ret
END snip64_call

/* A loop of the instructions that kernels are made of. RCX: rounds. */
BEGIN snip64_bench
	xor %eax, %eax
	mov $DATA, %ebx
1:	mov %rcx, %rdx
	and $0xff, %edx
	add (%rbx,%rdx,8), %rax
	mov %rax, 8(%rbx)
	lea 3(%rax,%rdx,2), %rsi
	xor %rsi, %rax
	dec %ecx
	jnz 1b
	hlt
END snip64_bench

/* Load from RDI, then store to it, then jump there. */
BEGIN snip64_load
	mov (%rdi), %rax
	hlt
END snip64_load
BEGIN snip64_store
	mov %rax, (%rdi)
	hlt
END snip64_store
BEGIN snip64_rmw
	add %rax, (%rdi)
	hlt
END snip64_rmw
BEGIN snip64_jump
	jmp *%rdi
END snip64_jump
BEGIN snip64_push
	push %rax
	hlt
END snip64_push
BEGIN snip64_lock
	lock xadd %rax, (%rdi)
	hlt
END snip64_lock
BEGIN snip64_cmpxchg16b
	lock cmpxchg16b (%rdi)
	hlt
END snip64_cmpxchg16b

/* With RSI, RDI, RCX. */
BEGIN snip64_rep_movs
	rep movsb
	hlt
END snip64_rep_movs
BEGIN snip64_rep_stos
	rep stosq
	hlt
END snip64_rep_stos
BEGIN snip64_repe_cmps
	repe cmpsb
	hlt
END snip64_repe_cmps
BEGIN snip64_repne_scas
	repne scasb
	hlt
END snip64_repne_scas

/* Overwrites its own next instruction: mov $1 becomes mov $2. */
BEGIN snip64_smc_next
	movb $2, 1f+1(%rip)
1:	mov $1, %eax
	hlt
END snip64_smc_next

/* A function called, rewritten, and called again. */
BEGIN snip64_smc_call
	mov $DATA, %ebx
	movl $0x000001b8, (%rbx)	/* mov $1, %eax */
	movw $0xc300, 4(%rbx)		/* ret */
	call *%rbx
	mov %eax, %esi
	movb $7, 1(%rbx)
	call *%rbx
	mov %eax, %edi
	hlt
END snip64_smc_call

BEGIN snip64_flags
	mov $0x7fffffff, %eax
	add $1, %eax
	pushf
	pop %rbx
	stc
	mov $0xffffffff, %eax
	adc $0, %eax
	pushf
	pop %rcx
	mov $5, %eax
	cmp $6, %eax
	setb %dl
	inc %eax		/* CF stays */
	setb %dh
	xor %r8d, %r8d
	mov $0, %cl
	stc
	shl %cl, %r8d		/* a count of zero keeps all */
	setc %r8b
	hlt
END snip64_flags

BEGIN snip64_divide
	xor %edx, %edx
	mov $1, %eax
	xor %ecx, %ecx
1:	div %ecx
	hlt
END snip64_divide

BEGIN snip64_ud
	ud2
END snip64_ud
BEGIN snip64_int3
	int3
	hlt
END snip64_int3

/* Sets TF; the trap comes after the instruction that follows POPF. */
BEGIN snip64_tf
	pushf
	orl $0x100, (%rsp)
	popf
	nop
1:	nop
	hlt
END snip64_tf

BEGIN snip64_sti_shadow
	sti
	mov $1, %eax
	mov $2, %eax
	hlt
END snip64_sti_shadow

BEGIN snip64_cr8
	mov $5, %eax
	mov %rax, %cr8
	sti
	nop
	xor %eax, %eax
	mov %rax, %cr8
	nop
	hlt
END snip64_cr8

/* To CPL 3 at USER (an INT 0x80 there comes back), by IRETQ. */
BEGIN snip64_to_user
	push $0x23
	push $USER + 0x8000
	push $0x202
	push $0x1b
	push $USER
	iretq
END snip64_to_user
BEGIN user64_int80
	mov $42, %eax
	int $0x80
END user64_int80
BEGIN user64_privileged
	cli
END user64_privileged
BEGIN user64_syscall
	syscall
END user64_syscall
BEGIN user64_store
	mov %rax, (%rdi)
END user64_store

BEGIN snip64_syscall_entry
	mov %rcx, %r14
	hlt
END snip64_syscall_entry

BEGIN snip64_mmio
	mov $MMIO, %ebx
	movl $0x11223344, (%rbx)
	mov (%rbx), %eax
	movzbl 1(%rbx), %ecx
	movq $-1, 8(%rbx)
	mov 6(%rbx), %rdx
	hlt
END snip64_mmio

BEGIN snip64_ports
	mov $0xe1, %edx
	mov $0xabcd, %eax
	out %ax, %dx
	in $0x61, %al
	mov %al, %bl
	mov $DATA, %edi
	mov $3, %ecx
	rep insb
	hlt
END snip64_ports

BEGIN snip64_stac
	mov (%rdi), %rbx
	hlt
END snip64_stac
BEGIN snip64_stac_ok
	stac
	mov (%rdi), %rbx
	clac
	hlt
END snip64_stac_ok

BEGIN snip64_wrmsr
	wrmsr
	hlt
END snip64_wrmsr
BEGIN snip64_mov_cr4
	mov %rax, %cr4
	hlt
END snip64_mov_cr4
BEGIN snip64_mov_cr0
	mov %rax, %cr0
	hlt
END snip64_mov_cr0
BEGIN snip64_sgdt
	sgdt (%rdi)
	hlt
END snip64_sgdt

BEGIN snip64_sse
	movdqu (%rdi), %xmm1
	paddd %xmm1, %xmm1
	movdqu %xmm1, 16(%rdi)
	movaps 32(%rdi), %xmm2
	hlt
END snip64_sse
BEGIN snip64_gather
	vpcmpeqd %ymm2, %ymm2, %ymm2
	vmovdqu (%rsi), %ymm1
	vpgatherdd %ymm2, (%rdi,%ymm1,4), %ymm0
	vmovdqu %ymm0, (%rdx)
	hlt
END snip64_gather
BEGIN snip64_x87
	fninit
	fld1
	fldpi
	faddp
	fstpl (%rdi)
	hlt
END snip64_x87

/* ---- 32-bit ---- */
	.code32
BEGIN snip32_mix
	mov $0x12345678, %eax
	bswap %eax
	push %eax
	pop %ebx
	mov $DATA, %edi
	mov %eax, (%edi)
	movw (%edi), %cx
	aam
	daa
	enter $16, $1
	leave
	pusha
	popa
	hlt
END snip32_mix

/* A 16-byte segment at DATA, by selector 0x58 in the GDT. */
BEGIN snip32_limit
	mov $0x58, %ax
	mov %ax, %ds
	movl 12, %ebx
	movl 13, %ebx
	hlt
END snip32_limit

BEGIN snip32_null
	xor %eax, %eax
	mov %ax, %ds
	movl 0, %ebx
	hlt
END snip32_null

/* Switch to the task of SEL_TSS2, which reports and switches back. */
BEGIN snip32_task
	lcall $0x40, $0
	mov $0x77, %ebx
	hlt
END snip32_task
BEGIN task32
	mov $0x99, %al
	out %al, $0xe2
	iret
END task32

/* Into V86 mode at 0x2000:0. */
BEGIN snip32_v86
	push $0			/* GS FS DS ES */
	push $0
	push $0x4000
	push $0
	push $0x3000		/* SS */
	push $0xfff0
	push $0x23202		/* VM, IOPL 3, IF */
	push $0x2000
	push $0
	iret
END snip32_v86
BEGIN snip32_v86_iopl0
	push $0
	push $0
	push $0x4000
	push $0
	push $0x3000
	push $0xfff0
	push $0x20202
	push $0x2000
	push $0
	iret
END snip32_v86_iopl0

BEGIN snip32_user
	push $0x23
	push $USER + 0x8000
	push $0x202
	push $0x1b
	push $USER
	iret
END snip32_user
BEGIN user32_int80
	mov $43, %eax
	int $0x80
END user32_int80

/* ---- 16-bit ---- */
	.code16
BEGIN v86_code
	mov $0x1234, %ax
	mov %ax, (0)
	push %ax
	pop %bx
	int $0x80
END v86_code
BEGIN v86_cli
	cli
END v86_cli

/* A vector of its own, then far calls and strings. */
BEGIN snip16_real
	xor %ax, %ax
	mov %ax, %ds
	mov %ax, %es
	movw $0x8000 + real_isr - snip16_real, (0x21 * 4)
	movw $0, (0x21 * 4 + 2)
	mov $5, %bx
	int $0x21
	mov $0x8000 + real_isr - snip16_real, %si
	mov $0x500, %di
	mov $4, %cx
	cld
	rep movsb
	lcall $0, $0x8000 + real_far - snip16_real
	hlt
real_isr:
	add $7, %bx
	iret
real_far:
	mov $0xbeef, %dx
	lret
END snip16_real

BEGIN snip16_limit
	mov $0xffff, %bx
	mov (%bx), %ax
	hlt
END snip16_limit

BEGIN snip16_wrap
	mov $0xffff, %bx
	mov (%bx), %al
	mov 1(%bx), %ah
	hlt
END snip16_wrap

/* Real mode to 32-bit protected mode, with the GDT that is loaded. */
BEGIN snip16_to32
	mov %cr0, %eax
	or $1, %al
	mov %eax, %cr0
	ljmpl $0x08, $0x8000 + to32 - snip16_to32
	.code32
to32:	mov $0x10, %eax
	mov %eax, %ss
	mov %eax, %ds
	mov $0xf000, %esp
	push $0x11223344
	pop %ebx
	hlt
END snip16_to32

	.section .note.GNU-stack,"",@progbits
