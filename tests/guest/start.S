/* SPDX-License-Identifier: Apache-2.0 */
/*
 * start.S - from the PVH entry (32-bit, flat, no paging) to main() in 64-bit
 * mode: identity map of 4 GiB in 2 MiB pages, an IDT whose gates all end in
 * on_vector(), and the way up for application processors.
 */
	.section .note.pvh, "a", @note
	.balign 4
	.long 4, 4, 18		/* name, description, XEN_ELFNOTE_PHYS32_ENTRY */
	.asciz "Xen"
	.long start32

	.text
	.code32
	.globl start32
start32:
	cld
	mov %ebx, start_info
	mov $stack_top, %esp
	mov $page_directories, %edi
	mov $0x87, %eax			/* present, writable, user, large */
	xor %ecx, %ecx
1:	mov %eax, (%edi, %ecx, 8)
	add $0x200000, %eax
	inc %ecx
	cmp $2048, %ecx
	jb 1b
	lea page_directories + 7, %eax
	mov $pdpt, %edi
	mov $4, %ecx
2:	mov %eax, (%edi)
	add $8, %edi
	add $4096, %eax
	loop 2b
	movl $pdpt + 7, pml4
	call enter_long
	.code64
	mov $stack_top, %rsp
	call make_idt
	lidt idt_pointer
	xor %ebp, %ebp
	call main
	mov %eax, %edi
	call guest_exit

	/* Returns in 64-bit mode, on the caller's stack. */
	.code32
enter_long:
	pop %edx
	lgdt gdt_pointer
	mov $pml4, %eax
	mov %eax, %cr3
	mov %cr4, %eax
	or $0x620, %eax			/* PAE, OSFXSR, OSXMMEXCPT */
	mov %eax, %cr4
	push %edx
	mov $0xc0000080, %ecx
	rdmsr
	or $0x901, %eax			/* NXE, LME, SCE */
	wrmsr
	pop %edx
	mov %cr0, %eax
	or $0x80010003, %eax		/* PG, WP, MP, PE */
	and $~4, %eax			/* no EM */
	mov %eax, %cr0
	ljmp $8, $1f
	.code64
1:	mov $16, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	xor %eax, %eax
	mov %eax, %fs
	mov %eax, %gs
	mov %edx, %edx
	jmp *%rdx

	/* Copied to AP_PAGE; a SIPI starts it there in real mode. */
	.code16
	.globl ap_start, ap_end
ap_start:
	cli
	xor %ax, %ax
	mov %ax, %ds
	lgdtl 0x8000 + ap_gdt_pointer - ap_start
	mov %cr0, %eax
	or $1, %eax
	mov %eax, %cr0
	ljmpl $24, $ap32
ap_gdt_pointer:
	.word gdt_end - gdt - 1
	.long gdt
ap_end:
	.code32
ap32:
	mov $16, %eax
	mov %eax, %ds
	mov %eax, %ss
	mov $1, %eax
	lock xadd %eax, ap_count
	inc %eax
	shl $12, %eax
	lea ap_stacks(%eax), %esp
	call enter_long
	.code64
	lidt idt_pointer
	call ap_main
1:	cli
	hlt
	jmp 1b

	/* 256 stubs of 16 bytes: error code (or 0) and vector on the stack. */
	.globl vector_stubs
	.balign 16
vector_stubs:
	.set n, 0
	.rept 256
	.balign 16
	.if !(n == 8 || (n >= 10 && n <= 14) || n == 17)
	push $0
	.endif
	push $n
	jmp common
	.set n, n + 1
	.endr
common:
	push %rax
	push %rcx
	push %rdx
	push %rbx
	push %rbp
	push %rsi
	push %rdi
	push %r8
	push %r9
	push %r10
	push %r11
	push %r12
	push %r13
	push %r14
	push %r15
	mov %rsp, %rdi
	mov %rsp, %rbp
	and $-16, %rsp
	cld
	call on_vector
	mov %rbp, %rsp
	pop %r15
	pop %r14
	pop %r13
	pop %r12
	pop %r11
	pop %r10
	pop %r9
	pop %r8
	pop %rdi
	pop %rsi
	pop %rbp
	pop %rbx
	pop %rdx
	pop %rcx
	pop %rax
	add $16, %rsp
	iretq

	/* u64 call_user(fn, stack): runs fn at CPL 3; int $0x80 comes back. */
	.globl call_user, user_return
call_user:
	push %rbx
	push %rbp
	push %r12
	push %r13
	push %r14
	push %r15
	mov %rsp, kernel_stack
	mov %rsp, tss + 4
	push $0x33			/* SS */
	push %rsi
	push $0x202
	push $0x2b			/* CS */
	push %rdi
	iretq
user_return:
	mov kernel_stack, %rsp
	pop %r15
	pop %r14
	pop %r13
	pop %r12
	pop %rbp
	pop %rbx
	ret

	.data
	.balign 16
	.globl gdt, tss
gdt:	.quad 0
	.quad 0x00af9a000000ffff	/* 08: 64-bit code */
	.quad 0x00cf92000000ffff	/* 10: data */
	.quad 0x00cf9a000000ffff	/* 18: 32-bit code */
	.quad 0x00cffa000000ffff	/* 20: 32-bit user code */
	.quad 0x00affa000000ffff	/* 28: 64-bit user code */
	.quad 0x00cff2000000ffff	/* 30: user data */
tss_descriptor:
	.quad 0, 0			/* 38: TSS, made by make_idt */
	.globl tss_descriptor
	.quad 0x00cff2000000ffff	/* 48: as SYSRET wants them, data */
	.quad 0x00affa000000ffff	/* 50: and 64-bit code */
gdt_end:
gdt_pointer:
	.word gdt_end - gdt - 1
	.quad gdt
	.globl start_info, ap_count
start_info: .long 0
ap_count: .long 0
kernel_stack: .quad 0

	.bss
	.balign 4096
	.globl pml4, pdpt, page_directories
pml4:	.skip 4096
pdpt:	.skip 4096
page_directories: .skip 4 * 4096
stack:	.skip 65536
stack_top:
ap_stacks: .skip 65 * 4096
tss:	.skip 104 + 32

	.section .note.GNU-stack, "", @progbits
