//! Builds go on in a copy at the path of the original: nothing is built again, and nothing is written to the original.

use super::Place;

/// All of a directory but times of access.
fn tree(place: &Place, dir: &str) -> String {
    place.sh(dir, "find . -printf '%p %y %m %s %T@ %C@\\n' | sort; find . -type f -exec sha256sum {} + | sort")
}

#[test]
#[ignore = "needs root, make, ninja, cmake and a C compiler: mounts overlays"]
fn privileged_a_build_is_up_to_date_in_a_copy_and_an_edit_is_built_there_only() {
    let place = Place::new();
    place.dir("project");
    place.sh(
        "project",
        "printf 'int main(void) { return 3; }\\n' > a.c; \
         printf 'a: a.c\\n\\tcc a.c -o a\\n' > Makefile; \
         printf 'rule cc\\n  command = cc $in -o $out\\nbuild n: cc a.c\\n' > build.ninja; \
         printf 'cmake_minimum_required(VERSION 3.20)\\nproject(p C)\\nadd_executable(c a.c)\\n' > CMakeLists.txt; \
         make -s; ninja --quiet; cmake -S . -B out > cmake.log; cmake --build out >> cmake.log",
    );
    let before = tree(&place, "project");
    place.ovl(&["create", "one", "--over", "project"]);
    let all = "make -q && ninja -n; cmake --build out";
    let printed = place.run("one", all);
    assert!(printed.contains("ninja: no work to do."), "{printed}");
    assert!(!printed.contains("Building"), "{printed}");
    place.run("one", "sed -i s/3/4/ a.c; make -s; ninja --quiet; cmake --build out");
    let codes = "for p in ./a ./n out/c; do $p || echo $?; done";
    assert_eq!(place.run("one", codes), "4\n4\n4\n");
    assert_eq!(place.sh("project", codes), "3\n3\n3\n");
    assert_eq!(tree(&place, "project"), before);
}

#[test]
#[ignore = "needs root and python3-venv: mounts overlays"]
fn privileged_a_virtual_environment_installs_into_the_copy() {
    let place = Place::new();
    place.dir("project/pkg");
    place.sh(
        "project",
        "python3 -m venv --without-pip v; mkdir -p pkg/demo; echo 'x = 1' > pkg/demo/__init__.py",
    );
    let before = tree(&place, "project");
    place.ovl(&["create", "one", "--over", "project"]);
    // What an installer does: it asks the interpreter of the environment where packages are.
    let site = "v/bin/python -c 'import sysconfig; print(sysconfig.get_path(\"purelib\"))'";
    place.run("one", &format!("cp -r pkg/demo $({site})"));
    assert_eq!(place.run("one", ". v/bin/activate; python -c 'import demo; print(demo.x)'"), "1\n");
    assert_eq!(tree(&place, "project"), before);
}
