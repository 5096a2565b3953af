/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/container_spec.h"

#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "proto/oci.h"

int container_id_check(const char *id, kata_error **err)
{
	if (kata__id_is_valid(id) && id[1] != '\0')
		return 0;
	return kata__fail(err, KATA_E_INVALID, CALLER,
			  "container_id: '%.80s' is not 2 to 64 of [A-Za-z0-9_.-], beginning with a letter or digit",
			  id);
}

static int check_parts(const Grpc__Spec *spec, kata_error **err)
{
	if (!spec)
		return kata__fail(err, KATA_E_INVALID, CALLER, "OCI: there is no spec");
	if (!spec->process || spec->process->n_args == 0)
		return kata__fail(err, KATA_E_INVALID, CALLER,
				  "OCI: process.args is missing; a container runs a program");
	if (!spec->root || spec->root->path[0] != '/')
		return kata__fail(err, KATA_E_INVALID, CALLER,
				  "OCI: root.path is '%.80s'; an absolute path in the guest is needed",
				  spec->root ? spec->root->path : "");
	if (!spec->linux)
		return kata__fail(err, KATA_E_INVALID, CALLER, "OCI: linux is missing");
	return 0;
}

static bool has_namespace(const Grpc__Linux *linux, const char *type)
{
	for (size_t i = 0; i < linux->n_namespaces; i++)
		if (strcmp(linux->namespaces[i]->type, type) == 0)
			return true;
	return false;
}

int container_spec_text(const Grpc__Spec *spec, char **ret_text, kata_error **err)
{
	Grpc__LinuxNamespace pid = GRPC__LINUX_NAMESPACE__INIT;
	KATA_AUTO(free) Grpc__LinuxNamespace **all = NULL;
	Grpc__Linux with_pid;
	Grpc__Spec copy;
	int rc = check_parts(spec, err);

	if (rc != 0)
		return rc;
	if (has_namespace(spec->linux, "pid"))
		return kata__oci_spec_to_json(spec, ret_text, NULL, err);
	all = calloc(spec->linux->n_namespaces + 1, sizeof(Grpc__LinuxNamespace *));
	if (!all)
		return kata__fail_no_memory(err);
	if (spec->linux->n_namespaces)
		memcpy(all, spec->linux->namespaces, spec->linux->n_namespaces * sizeof(Grpc__LinuxNamespace *));
	pid.type = (char *)"pid";
	all[spec->linux->n_namespaces] = &pid;
	with_pid = *spec->linux;
	with_pid.namespaces = all;
	with_pid.n_namespaces++;
	copy = *spec;
	copy.linux = &with_pid;
	return kata__oci_spec_to_json(&copy, ret_text, NULL, err);
}
