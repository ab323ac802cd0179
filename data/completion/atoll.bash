# SPDX-License-Identifier: Apache-2.0
# Completion for bash. Verbs and options are what the program itself lists;
# names of machines, networks, images and so on are those that the daemon has
# just now.

_atoll_verbs()
{
	"${COMP_WORDS[0]}" "$@" --help 2>/dev/null |
		sed -n '/^Verbs:/,/^$/s/^  \([a-z][a-z-]*\) .*/\1/p'
}

_atoll_topics()
{
	"${COMP_WORDS[0]}" --help 2>/dev/null |
		sed -n '/^Topics/,/^$/s/^  \([a-z][a-z-]*\) .*/\1/p'
}

_atoll_options()
{
	"${COMP_WORDS[0]}" "$@" --help 2>/dev/null |
		sed -n 's/^  \(--[a-z-]*\).*/\1/p'
}

# What there is of a noun. Pressing a key starts no daemon.
_atoll_of()
{
	ATOLL_NO_START=1 "${COMP_WORDS[0]}" "$1" list --format name 2>/dev/null
}

_atoll_snapshots()
{
	ATOLL_NO_START=1 "${COMP_WORDS[0]}" snapshot list "$1" 2>/dev/null |
		sed 's/^[ *]*\([^ ]*\).*/\1/'
}

# What may follow an option; fails where anything may.
_atoll_values()
{
	case $1 in
	--net) echo user none; _atoll_of net ;;
	--machine | --vm) _atoll_of vm ;;
	--project | --role | --user | --image) _atoll_of "${1#--}" ;;
	-o | --format)
		[ "$2 $3" != "image import" ] || return 1
		echo table wide json jsonl yaml csv name ;;
	--engine) echo auto kvm bt interp ;;
	--restart) echo no on-failure always ;;
	--share-memory) echo on off ;;
	--for) [ "$2 $3" = "vm wait" ] && echo running paused stopped ;;
	--state)
		case $2 in
		task) echo queued running succeeded failed cancelled ;;
		*) echo stopped starting running paused ;;
		esac ;;
	*) return 1 ;;
	esac
}

# Arguments of a verb: $1 noun, $2 verb, $3 which word after the noun it is,
# $4 the machine of a snapshot.
_atoll_arguments()
{
	case $1 in
	start | stop | restart | kill | pause | suspend | resume | fork | \
	console | shell | exec | metrics)
		_atoll_of vm ;;
	cp) _atoll_of vm | sed 's/$/:/' ;;
	launch | run) [ "$3" != 1 ] || _atoll_of image ;;
	help) _atoll_verbs; _atoll_topics ;;
	vm | net | project | user | role | token | alarm | image | task)
		case $2 in
		create | build | import | seed | list) ;;
		revert) if [ "$3" = 2 ]; then _atoll_of vm
			else _atoll_snapshots "$4"; fi ;;
		*) _atoll_of "$1" ;;
		esac ;;
	quota) [ "$2" = list ] || _atoll_of project ;;
	snapshot)
		if [ "$3" = 2 ]; then
			_atoll_of vm
		elif [ "$2" != create ]; then
			_atoll_snapshots "$4"
		fi ;;
	backup)
		case $2 in
		create | schedule) _atoll_of vm ;;
		list) ;;
		*) _atoll_of backup ;;
		esac ;;
	disk) _atoll_of vm | sed 's/$/:vda/' ;;
	esac
}

_atoll()
{
	local line=${COMP_LINE:0:COMP_POINT} noun=1 at before word words cut
	local -a w

	COMPREPLY=()
	# Not as COMP_WORDS, where "debian:12" is three words.
	read -ra w <<<"$line"
	[[ $line != *[[:space:]] ]] || w+=("")
	word=${w[${#w[@]} - 1]} before=${w[${#w[@]} - 2]}
	# Options that stand before the noun.
	while [ "$noun" -lt $((${#w[@]} - 1)) ] && [[ ${w[noun]} == -* ]]; do
		case ${w[noun]} in
		-o | --format | --columns | --filter | --sort | --remote | \
		--project | --timeout | --if-rev)
			noun=$((noun + 1)) ;;
		esac
		noun=$((noun + 1))
	done
	at=$((${#w[@]} - 1 - noun))
	if [[ $word == --*=* ]]; then
		before=${word%%=*} word=${word#*=}
	fi
	if [[ $before == -* ]] &&
		words=$(_atoll_values "$before" "${w[noun]}" "${w[noun + 1]}"); then
		:
	elif [ "$at" -lt 0 ]; then
		return
	elif [[ $word == -* ]] && [ "$at" = 0 ]; then
		words="--format --remote --project --timeout --async --if-rev
			--dry-run --yes --quiet --columns --filter --sort
			--help --version"
	elif [ "$at" = 0 ]; then
		words=$(_atoll_verbs)
	else
		case ${w[noun]} in
		vm | snapshot | backup | net | task | event | token | audit | \
		stack | disk | image | host | alarm | report | project | \
		quota | user | role)
			if [[ $word == -* ]]; then
				words=$(_atoll_options "${w[noun]}" "${w[noun + 1]}")
			elif [ "$at" = 1 ]; then
				words=$(_atoll_verbs "${w[noun]}")
			fi ;;
		*)
			[[ $word != -* ]] || words=$(_atoll_options "${w[noun]}") ;;
		esac
		if [ -z "$words" ] && [[ $word != -* ]]; then
			words=$(_atoll_arguments "${w[noun]}" "${w[noun + 1]}" \
				"$at" "${w[noun + 2]}")
		fi
	fi
	if [ -n "$words" ]; then
		# shellcheck disable=SC2207
		COMPREPLY=($(compgen -W "$words" -- "$word"))
	fi
	if [[ $word == *:* && $COMP_WORDBREAKS == *:* ]]; then
		cut=${word%"${word##*:}"}
		COMPREPLY=("${COMPREPLY[@]#"$cut"}")
	fi
	# The path in the guest comes right behind it.
	if [ "${w[noun]}" = cp ] && [ ${#COMPREPLY[@]} = 1 ]; then
		compopt -o nospace 2>/dev/null
	fi
}

complete -o default -F _atoll atoll
