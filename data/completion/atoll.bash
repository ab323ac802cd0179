# SPDX-License-Identifier: Apache-2.0
# Completion for bash. Verbs and options are what the program itself lists;
# names of machines are those that the daemon has just now.

_atoll_verbs()
{
	"${COMP_WORDS[0]}" "$@" --help 2>/dev/null |
		sed -n '/^Verbs:/,/^$/s/^  \([a-z][a-z-]*\) .*/\1/p'
}

_atoll_options()
{
	"${COMP_WORDS[0]}" "$@" --help 2>/dev/null |
		sed -n 's/^  \(--[a-z-]*\).*/\1/p'
}

_atoll_names()
{
	# Pressing a key starts no daemon.
	ATOLL_NO_START=1 "${COMP_WORDS[0]}" vm list --format name 2>/dev/null
}

_atoll_of()
{
	ATOLL_NO_START=1 "${COMP_WORDS[0]}" "$1" list --format name 2>/dev/null
}

_atoll_snapshots()
{
	ATOLL_NO_START=1 "${COMP_WORDS[0]}" snapshot list "$1" 2>/dev/null |
		sed 's/^[ *]*\([^ ]*\).*/\1/'
}

_atoll()
{
	local word=${COMP_WORDS[COMP_CWORD]} noun=${COMP_WORDS[1]}
	local verb=${COMP_WORDS[2]} before=${COMP_WORDS[COMP_CWORD - 1]} words

	COMPREPLY=()
	if [ "$COMP_CWORD" = 1 ]; then
		words=$(_atoll_verbs)
	elif [ "$before" = --net ]; then
		words="user none $(_atoll_of net)"
	elif [ "$before" = --machine ]; then
		words=$(_atoll_names)
	elif [ "$before" = --project ] || [ "$before" = --role ] ||
		[ "$before" = --user ]; then
		words=$(_atoll_of "${before#--}")
	elif [[ $word == -* ]]; then
		case $noun in
		vm | snapshot | backup | net | task | event | token | audit | stack | disk | image | host | alarm | report | project | quota | user | role)
			words=$(_atoll_options "$noun" "$verb") ;;
		*) words=$(_atoll_options "$noun") ;;
		esac
	else
		case $noun in
		start | stop | restart | kill | pause | suspend | resume | fork | console | shell | exec | metrics)
			words=$(_atoll_names) ;;
		vm)
			if [ "$COMP_CWORD" = 2 ]; then
				words=$(_atoll_verbs vm)
			elif [ "$verb" != create ]; then
				words=$(_atoll_names)
			fi ;;
		net | project | user | role | token | alarm)
			if [ "$COMP_CWORD" = 2 ]; then
				words=$(_atoll_verbs "$noun")
			elif [ "$verb" != create ]; then
				words=$(_atoll_of "$noun")
			fi ;;
		snapshot)
			case $COMP_CWORD in
			2) words=$(_atoll_verbs snapshot) ;;
			3) words=$(_atoll_names) ;;
			*) [ "$verb" = create ] ||
				words=$(_atoll_snapshots "${COMP_WORDS[3]}") ;;
			esac ;;
		quota)
			if [ "$COMP_CWORD" = 2 ]; then
				words=$(_atoll_verbs quota)
			else
				words=$(_atoll_of project)
			fi ;;
		image)
			if [ "$COMP_CWORD" = 2 ]; then
				words=$(_atoll_verbs image)
			elif [[ $verb != @(build|import|seed) ]]; then
				words=$(_atoll_of image)
			fi ;;
		backup)
			if [ "$COMP_CWORD" = 2 ]; then
				words=$(_atoll_verbs backup)
			elif [ "$verb" = create ]; then
				words=$(_atoll_names)
			else
				words=$(_atoll_of backup)
			fi ;;
		task | event | audit | stack | report | disk | host)
			[ "$COMP_CWORD" != 2 ] || words=$(_atoll_verbs "$noun") ;;
		esac
	fi
	if [ -n "$words" ]; then
		# shellcheck disable=SC2207
		COMPREPLY=($(compgen -W "$words" -- "$word"))
	fi
}

complete -o default -F _atoll atoll
