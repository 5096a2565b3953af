# SPDX-License-Identifier: Apache-2.0
# kata_room(NAME MAY_SEE rooms... LIBS targets... PROTOS files...): the object library of src/NAME.
#
# A room is compiled with -I for include/, for generated code of its own, and for one directory of links, build/rooms/NAME,
# that holds itself and the rooms it may see. `#include "vm/vm.h"` from base therefore finds nothing.

set(KATA_ROOMS "" CACHE INTERNAL "")

function(kata_room name)
  cmake_parse_arguments(R "" "" "MAY_SEE;LIBS;PROTOS" ${ARGN})
  set(view ${CMAKE_BINARY_DIR}/rooms/${name})
  file(MAKE_DIRECTORY ${view})
  foreach(room ${name} ${R_MAY_SEE})
    if(NOT room STREQUAL "NONE" AND NOT EXISTS ${view}/${room})
      file(CREATE_LINK ${CMAKE_SOURCE_DIR}/src/${room} ${view}/${room} SYMBOLIC)
    endif()
  endforeach()

  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/${name}/*.c)
  set(gendir ${CMAKE_BINARY_DIR}/gen/${name})
  foreach(proto ${R_PROTOS})
    get_filename_component(stem ${proto} NAME_WE)
    file(MAKE_DIRECTORY ${gendir})
    add_custom_command(
      OUTPUT ${gendir}/${stem}.pb-c.c ${gendir}/${stem}.pb-c.h
      COMMAND protoc-c --proto_path=${CMAKE_SOURCE_DIR}/src/${name} --c_out=${gendir} ${stem}.proto
      DEPENDS ${CMAKE_SOURCE_DIR}/src/${name}/${proto} VERBATIM)
    list(APPEND sources ${gendir}/${stem}.pb-c.c)
    list(APPEND generated ${gendir}/${stem}.pb-c.h)
    set_source_files_properties(${gendir}/${stem}.pb-c.c PROPERTIES COMPILE_OPTIONS "-w")
  endforeach()
  if(NOT sources)
    file(WRITE ${CMAKE_BINARY_DIR}/empty_${name}.c "typedef int kata_room_is_empty;\n")
    set(sources ${CMAKE_BINARY_DIR}/empty_${name}.c)
  endif()
  add_library(room_${name} OBJECT ${sources})
  if(generated)
    add_custom_target(gen_${name} DEPENDS ${generated})
    add_dependencies(room_${name} gen_${name})
  endif()
  target_include_directories(room_${name} PRIVATE ${CMAKE_SOURCE_DIR}/include ${view})
  foreach(room ${name} ${R_MAY_SEE})
    if(EXISTS ${CMAKE_BINARY_DIR}/gen/${room})
      target_include_directories(room_${name} SYSTEM PRIVATE ${CMAKE_BINARY_DIR}/gen/${room})
      if(NOT room STREQUAL name)
        add_dependencies(room_${name} gen_${room})
      endif()
    endif()
  endforeach()
  foreach(lib ${R_LIBS})
    target_link_libraries(room_${name} PRIVATE ${lib})
  endforeach()
  set(KATA_ROOMS ${KATA_ROOMS} ${name} CACHE INTERNAL "")
endfunction()

set(KATA_LINK_LIBS PkgConfig::JANSSON PkgConfig::SQLITE PkgConfig::PROTOBUFC PkgConfig::NL PkgConfig::NLROUTE
    PkgConfig::UUID PkgConfig::NETTLE Threads::Threads)

# libkata.so.0 (only what src/libkata.map names), libkata.a, and kata_internal for the unit tests (everything visible).
function(kata_library)
  foreach(room ${KATA_ROOMS})
    list(APPEND objects $<TARGET_OBJECTS:room_${room}>)
  endforeach()
  set(map ${CMAKE_SOURCE_DIR}/src/libkata.map)

  add_library(kata SHARED ${objects})
  set_target_properties(kata PROPERTIES SOVERSION 0 VERSION ${PROJECT_VERSION} LINKER_LANGUAGE C LINK_DEPENDS ${map})
  target_link_options(kata PRIVATE -Wl,--version-script=${map} -Wl,--no-undefined -Wl,-z,relro,-z,now -Wl,--gc-sections)
  target_link_libraries(kata PRIVATE ${KATA_LINK_LIBS})
  target_include_directories(kata PUBLIC $<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}/include> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)

  add_library(kata_static STATIC ${objects})
  set_target_properties(kata_static PROPERTIES OUTPUT_NAME kata LINKER_LANGUAGE C)
  target_link_libraries(kata_static PUBLIC ${KATA_LINK_LIBS})
  target_include_directories(kata_static PUBLIC $<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}/include> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)

  # What unit tests, fuzz targets and the stand-in link: the same objects, with src/ and the generated headers in view.
  add_library(kata_internal INTERFACE)
  target_link_libraries(kata_internal INTERFACE kata_static)
  target_include_directories(kata_internal INTERFACE ${CMAKE_SOURCE_DIR}/src)
  target_include_directories(kata_internal SYSTEM INTERFACE ${CMAKE_BINARY_DIR}/gen/proto)
endfunction()
