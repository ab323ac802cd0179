# SPDX-License-Identifier: Apache-2.0
# Completion for fish. Verbs and options are what the program itself lists;
# names of machines and networks are those that the daemon has just now.

function __atoll_verbs
	command atoll $argv --help 2>/dev/null |
		sed -n '/^Verbs:/,/^$/s/^  \([a-z][a-z-]*\) .*/\1/p'
end

function __atoll_options
	command atoll $argv --help 2>/dev/null |
		sed -n 's/^  \(--[a-z-]*\).*/\1/p'
end

# Pressing a key starts no daemon.
function __atoll_names
	ATOLL_NO_START=1 command atoll $argv[1] list --format name 2>/dev/null
end

function __atoll_snapshots
	ATOLL_NO_START=1 command atoll snapshot list $argv[1] 2>/dev/null |
		sed 's/^[ *]*\([^ ]*\).*/\1/'
end

function __atoll_complete
	set -l words (commandline -opc)
	set -l now (commandline -ct)
	set -l count (count $words)
	set -l nouns vm snapshot backup net task event token audit stack disk image host alarm report project quota user role

	if test $count -eq 1
		__atoll_verbs
	else if test "$words[-1]" = --net
		printf '%s\n' user none
		__atoll_names net
	else if test "$words[-1]" = --machine
		__atoll_names vm
	else if contains -- "$words[-1]" --project --role --user
		__atoll_names (string replace -- -- '' $words[-1])
	else if string match -q -- '-*' "$now"
		if contains -- $words[2] $nouns
			__atoll_options $words[2..3]
		else
			__atoll_options $words[2]
		end
	else
		switch $words[2]
			case start stop restart kill pause suspend resume fork console shell exec metrics
				__atoll_names vm
			case vm net project user role token alarm
				if test $count -eq 2
					__atoll_verbs $words[2]
				else if test "$words[3]" != create
					__atoll_names $words[2]
				end
			case snapshot
				if test $count -eq 2
					__atoll_verbs snapshot
				else if test $count -eq 3
					__atoll_names vm
				else if test "$words[3]" != create
					__atoll_snapshots $words[4]
				end
			case quota
				if test $count -eq 2
					__atoll_verbs quota
				else
					__atoll_names project
				end
			case image
				if test $count -eq 2
					__atoll_verbs image
				else if not contains -- "$words[3]" build import seed
					__atoll_names image
				end
			case backup
				if test $count -eq 2
					__atoll_verbs backup
				else if test "$words[3]" = create
					__atoll_names vm
				else
					__atoll_names backup
				end
			case task event audit stack report disk host
				if test $count -eq 2
					__atoll_verbs $words[2]
				end
		end
	end
end

complete -c atoll -a '(__atoll_complete)'
