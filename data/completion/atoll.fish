# SPDX-License-Identifier: Apache-2.0
# Completion for fish. Verbs and options are what the program itself lists;
# names of machines, networks, images and so on are those that the daemon has
# just now.

function __atoll_verbs
	command atoll $argv --help 2>/dev/null |
		sed -n '/^Verbs:/,/^$/s/^  \([a-z][a-z-]*\)  *\(.*\)/\1\t\2/p'
end

function __atoll_topics
	command atoll --help 2>/dev/null |
		sed -n '/^Topics/,/^$/s/^  \([a-z][a-z-]*\)  *\(.*\)/\1\t\2/p'
end

function __atoll_options
	command atoll $argv --help 2>/dev/null |
		sed -n 's/^  \(--[a-z-]*\).*/\1/p'
end

# What there is of a noun. Pressing a key starts no daemon.
function __atoll_names
	ATOLL_NO_START=1 command atoll $argv[1] list --format name 2>/dev/null
end

function __atoll_snapshots
	ATOLL_NO_START=1 command atoll snapshot list $argv[1] 2>/dev/null |
		sed 's/^[ *]*\([^ ]*\).*/\1/'
end

# What may follow an option; fails where anything may.
function __atoll_values
	switch $argv[1]
		case --net
			printf '%s\n' user none
			__atoll_names net
		case --machine --vm
			__atoll_names vm
		case --project --role --user --image
			__atoll_names (string replace -- -- '' $argv[1])
		case -o --format
			test "$argv[2] $argv[3]" != "image import"
			and printf '%s\n' table wide json jsonl yaml csv name
		case --engine
			printf '%s\n' auto kvm bt interp
		case --restart
			printf '%s\n' no on-failure always
		case --share-memory
			printf '%s\n' on off
		case --for
			test "$argv[2] $argv[3]" = "vm wait"
			and printf '%s\n' running paused stopped
		case --state
			if test "$argv[2]" = task
				printf '%s\n' queued running succeeded failed cancelled
			else
				printf '%s\n' stopped starting running paused
			end
		case '*'
			return 1
	end
end

# Arguments of a verb: noun, verb, which word after the noun it is, and the
# machine of a snapshot.
function __atoll_arguments
	switch $argv[1]
		case start stop restart kill pause suspend resume fork console shell exec metrics
			__atoll_names vm
		case cp
			__atoll_names vm | sed 's/$/:/'
			__fish_complete_path (commandline -ct)
		case launch run
			test "$argv[3]" = 1
			and __atoll_names image
			test $argv[1] = run
			and __fish_complete_path (commandline -ct)
		case help
			__atoll_verbs
			__atoll_topics
		case vm net project user role token alarm image task
			switch "$argv[2]"
				case create build import seed list
				case revert
					if test "$argv[3]" = 2
						__atoll_names vm
					else
						__atoll_snapshots $argv[4]
					end
				case '*'
					__atoll_names $argv[1]
			end
		case quota
			test "$argv[2]" = list
			or __atoll_names project
		case snapshot
			if test "$argv[3]" = 2
				__atoll_names vm
			else if test "$argv[2]" != create
				__atoll_snapshots $argv[4]
			end
		case backup
			if contains -- "$argv[2]" create schedule
				__atoll_names vm
			else if test "$argv[2]" != list
				__atoll_names backup
			end
		case disk
			__atoll_names vm | sed 's/$/:vda/'
	end
end

function __atoll_complete
	set -l words (commandline -opc)
	set -l now (commandline -ct)
	set -l nouns vm snapshot backup net task event token audit stack disk image host alarm report project quota user role
	set -l noun 2
	set -l found

	# Options that stand before the noun.
	while test $noun -le (count $words); and string match -q -- '-*' $words[$noun]
		if contains -- $words[$noun] -o --format --columns --filter --sort --remote --project --timeout --if-rev
			set noun (math $noun + 1)
		end
		set noun (math $noun + 1)
	end
	# Which word after the noun it is; that is 0.
	set -l at (math (count $words) + 1 - $noun)
	set -l name "$words[$noun]"
	set -l verb
	test $noun -lt (count $words)
	and set verb $words[(math $noun + 1)]
	set -l third
	test (math $noun + 1) -lt (count $words)
	and set third $words[(math $noun + 2)]

	if string match -q -- '--*=*' "$now"
		set -l parts (string split -m 1 -- = $now)
		__atoll_values $parts[1] "$name" "$verb" | string replace -r -- '^' "$parts[1]="
		return
	end
	if string match -q -- '-*' "$words[-1]"
		if set found (__atoll_values "$words[-1]" "$name" "$verb")
			printf '%s\n' $found
			return
		end
	end
	if test $at -lt 0
		return
	else if test $at -eq 0
		if string match -q -- '-*' "$now"
			printf '%s\n' --format --remote --project --timeout --async --if-rev --dry-run --yes --quiet --columns --filter --sort --help --version
		else
			__atoll_verbs
		end
		return
	end
	if string match -q -- '-*' "$now"
		if contains -- $name $nouns
			__atoll_options $name $verb
		else
			__atoll_options $name
		end
	else if test $at -eq 1; and contains -- $name $nouns
		__atoll_verbs $name
	else
		__atoll_arguments "$name" "$verb" $at "$third"
	end
end

# Files where nothing else is known.
function __atoll_complete_or_files
	set -l found (__atoll_complete)

	if test (count $found) -gt 0
		printf '%s\n' $found
	else
		__fish_complete_path (commandline -ct)
	end
end

complete -c atoll -f -a '(__atoll_complete_or_files)'
