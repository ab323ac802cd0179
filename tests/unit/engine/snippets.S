/* SPDX-License-Identifier: Apache-2.0 */
/* snippets.S - guest code for the engine tests, by mode. Loaded at 0x8000. */

.macro BEGIN name
	.globl \name
\name:
.endm
.macro END name
	.globl \name\()_end
\name\()_end:
.endm
/* The guest's own address of a label. */
#define AT(base, label) (0x8000 + label - base)

	.section .rodata

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

BEGIN snip64_bench
	xor %eax, %eax
	mov $0x40000, %ebx
	mov $30000000, %ecx
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

	.section .note.GNU-stack,"",@progbits
