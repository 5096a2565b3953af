/* SPDX-License-Identifier: Apache-2.0 */
/* methods.c - the table of methods. */
#include "proto/methods.h"

#include <string.h>

#include "agent.pb-c.h"
#include "base/compiler.h"

#define METHOD(service_, name_, request_, response_)                                                                   \
	{                                                                                                              \
		.service = service_, .name = #name_, .request = &grpc__##request_##__descriptor,                       \
		.response = &grpc__##response_##__descriptor                                                           \
	}
#define AGENT(...) METHOD(KATA__SERVICE_AGENT, __VA_ARGS__)
#define HEALTH(...) METHOD(KATA__SERVICE_HEALTH, __VA_ARGS__)
#define GUEST(...) METHOD(KATA__SERVICE_GUEST, __VA_ARGS__)

const struct kata__method kata__methods[KATA__METHOD_COUNT] = {
	[KATA__AGENT_CREATE_CONTAINER] = AGENT(CreateContainer, create_container_request, empty),
	[KATA__AGENT_START_CONTAINER] = AGENT(StartContainer, start_container_request, empty),
	[KATA__AGENT_REMOVE_CONTAINER] = AGENT(RemoveContainer, remove_container_request, empty),
	[KATA__AGENT_EXEC_PROCESS] = AGENT(ExecProcess, exec_process_request, empty),
	[KATA__AGENT_SIGNAL_PROCESS] = AGENT(SignalProcess, signal_process_request, empty),
	[KATA__AGENT_WAIT_PROCESS] = AGENT(WaitProcess, wait_process_request, wait_process_response),
	[KATA__AGENT_UPDATE_CONTAINER] = AGENT(UpdateContainer, update_container_request, empty),
	[KATA__AGENT_UPDATE_EPHEMERAL_MOUNTS] = AGENT(UpdateEphemeralMounts, update_ephemeral_mounts_request, empty),
	[KATA__AGENT_STATS_CONTAINER] = AGENT(StatsContainer, stats_container_request, stats_container_response),
	[KATA__AGENT_PAUSE_CONTAINER] = AGENT(PauseContainer, pause_container_request, empty),
	[KATA__AGENT_RESUME_CONTAINER] = AGENT(ResumeContainer, resume_container_request, empty),
	[KATA__AGENT_REMOVE_STALE_VIRTIOFS_SHARE_MOUNTS] =
		AGENT(RemoveStaleVirtiofsShareMounts, remove_stale_virtiofs_share_mounts_request, empty),
	[KATA__AGENT_GET_DIAGNOSTIC_DATA] =
		AGENT(GetDiagnosticData, get_diagnostic_data_request, get_diagnostic_data_response),
	[KATA__AGENT_WRITE_STDIN] = AGENT(WriteStdin, write_stream_request, write_stream_response),
	[KATA__AGENT_READ_STDOUT] = AGENT(ReadStdout, read_stream_request, read_stream_response),
	[KATA__AGENT_READ_STDERR] = AGENT(ReadStderr, read_stream_request, read_stream_response),
	[KATA__AGENT_CLOSE_STDIN] = AGENT(CloseStdin, close_stdin_request, empty),
	[KATA__AGENT_TTY_WIN_RESIZE] = AGENT(TtyWinResize, tty_win_resize_request, empty),
	[KATA__AGENT_UPDATE_INTERFACE] = AGENT(UpdateInterface, update_interface_request, interface),
	[KATA__AGENT_UPDATE_ROUTES] = AGENT(UpdateRoutes, update_routes_request, routes),
	[KATA__AGENT_LIST_INTERFACES] = AGENT(ListInterfaces, list_interfaces_request, interfaces),
	[KATA__AGENT_LIST_ROUTES] = AGENT(ListRoutes, list_routes_request, routes),
	[KATA__AGENT_ADD_ARP_NEIGHBORS] = AGENT(AddARPNeighbors, add_arpneighbors_request, empty),
	[KATA__AGENT_GET_IP_TABLES] = AGENT(GetIPTables, get_iptables_request, get_iptables_response),
	[KATA__AGENT_SET_IP_TABLES] = AGENT(SetIPTables, set_iptables_request, set_iptables_response),
	[KATA__AGENT_GET_METRICS] = AGENT(GetMetrics, get_metrics_request, metrics),
	[KATA__AGENT_MEM_AGENT_MEMCG_SET] = AGENT(MemAgentMemcgSet, mem_agent_memcg_config, empty),
	[KATA__AGENT_MEM_AGENT_COMPACT_SET] = AGENT(MemAgentCompactSet, mem_agent_compact_config, empty),
	[KATA__AGENT_CREATE_SANDBOX] = AGENT(CreateSandbox, create_sandbox_request, empty),
	[KATA__AGENT_DESTROY_SANDBOX] = AGENT(DestroySandbox, destroy_sandbox_request, empty),
	[KATA__AGENT_ONLINE_CPU_MEM] = AGENT(OnlineCPUMem, online_cpumem_request, empty),
	[KATA__AGENT_RESEED_RANDOM_DEV] = AGENT(ReseedRandomDev, reseed_random_dev_request, empty),
	[KATA__AGENT_GET_GUEST_DETAILS] = AGENT(GetGuestDetails, guest_details_request, guest_details_response),
	[KATA__AGENT_MEM_HOTPLUG_BY_PROBE] = AGENT(MemHotplugByProbe, mem_hotplug_by_probe_request, empty),
	[KATA__AGENT_SET_GUEST_DATE_TIME] = AGENT(SetGuestDateTime, set_guest_date_time_request, empty),
	[KATA__AGENT_COPY_FILE] = AGENT(CopyFile, copy_file_request, empty),
	[KATA__AGENT_GET_OOM_EVENT] = AGENT(GetOOMEvent, get_oomevent_request, oomevent),
	[KATA__AGENT_ADD_SWAP] = AGENT(AddSwap, add_swap_request, empty),
	[KATA__AGENT_ADD_SWAP_PATH] = AGENT(AddSwapPath, add_swap_path_request, empty),
	[KATA__AGENT_GET_VOLUME_STATS] = AGENT(GetVolumeStats, volume_stats_request, volume_stats_response),
	[KATA__AGENT_RESIZE_VOLUME] = AGENT(ResizeVolume, resize_volume_request, empty),
	[KATA__AGENT_SET_POLICY] = AGENT(SetPolicy, set_policy_request, empty),
	[KATA__HEALTH_CHECK] = HEALTH(Check, check_request, health_check_response),
	[KATA__HEALTH_VERSION] = HEALTH(Version, check_request, version_check_response),
	[KATA__GUEST_AWAIT_DEVICE] = GUEST(AwaitDevice, await_device_request, await_device_response),
	[KATA__GUEST_OFFLINE_DEVICE] = GUEST(OfflineDevice, offline_device_request, empty),
	[KATA__GUEST_IDENTIFY] = GUEST(Identify, identify_request, identify_response),
	[KATA__GUEST_RESET_IDENTITY] = GUEST(ResetIdentity, reset_identity_request, reset_identity_response),
	[KATA__GUEST_SETTLE] = GUEST(Settle, settle_request, empty),
};

static bool same(const char *name, const char *text, size_t length)
{
	return strlen(name) == length && memcmp(name, text, length) == 0;
}

int kata__method_find(const char *service, size_t service_length, const char *method, size_t method_length)
{
	for (int i = 0; i < KATA__METHOD_COUNT; i++)
		if (same(kata__methods[i].name, method, method_length) &&
		    same(kata__methods[i].service, service, service_length))
			return i;
	return -1;
}

bool kata__service_is_known(const char *service, size_t service_length)
{
	static const char *const services[] = {KATA__SERVICE_AGENT, KATA__SERVICE_HEALTH, KATA__SERVICE_GUEST};

	for (size_t i = 0; i < kata__array_size(services); i++)
		if (same(services[i], service, service_length))
			return true;
	return false;
}
