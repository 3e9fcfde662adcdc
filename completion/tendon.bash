# SPDX-License-Identifier: Apache-2.0
#
# Completion for bash. It asks the command itself, `tendon --help` and `tendon COMMAND --help`, so that it knows what
# the installed version knows.

_tendon_commands()
{
    "$1" --help 2>/dev/null | sed -n 's/^  \([a-z][a-z]*\)   *[a-z].*/\1/p'
}

# The options of a command, those that take a value with the = and what the help calls the value.
_tendon_options()
{
    "$1" "$2" --help 2>/dev/null | sed -n 's/^  \(-[A-Za-z], \)\{0,1\}\(--[A-Za-z0-9-]*\(=[^ ]*\)\{0,1\}\)  .*/\2/p'
}

# Bash splits words at =: the word before the cursor's is then "=", and the option's name stands before that.
_tendon()
{
    local tendon=${COMP_WORDS[0]} current=${COMP_WORDS[COMP_CWORD]} option='' value
    COMPREPLY=()
    if ((COMP_CWORD == 1)); then
        mapfile -t COMPREPLY < <(compgen -W "$(_tendon_commands "$tendon") --help --version" -- "$current")
        return
    fi
    if [[ $current == = ]]; then
        current='' option=${COMP_WORDS[COMP_CWORD - 1]}
    elif [[ ${COMP_WORDS[COMP_CWORD - 1]} == = ]]; then
        option=${COMP_WORDS[COMP_CWORD - 2]}
    elif [[ ${COMP_WORDS[COMP_CWORD - 1]} == --* ]]; then
        option=${COMP_WORDS[COMP_CWORD - 1]}
    fi
    if [[ $option == --* ]]; then
        value=$(_tendon_options "$tendon" "${COMP_WORDS[1]}" | sed -n "s/^$option=//p")
        if [[ $value == *'|'* && $value != *[A-Z]* ]]; then
            mapfile -t COMPREPLY < <(compgen -W "${value//|/ }" -- "$current")
            return
        fi
    fi
    if [[ $current == -* ]]; then
        mapfile -t COMPREPLY < <(
            compgen -W "$(_tendon_options "$tendon" "${COMP_WORDS[1]}" | sed 's/=.*/=/') --help" -- "$current")
        [[ ${COMPREPLY[0]-} == *= ]] && compopt -o nospace 2>/dev/null
        return
    fi
    compopt -o filenames 2>/dev/null
    mapfile -t COMPREPLY < <(compgen -f -- "$current")
}

complete -F _tendon tendon
