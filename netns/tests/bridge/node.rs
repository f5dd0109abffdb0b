//! Network namespaces to test in, and what to ask the kernel about them.

use std::ffi::CString;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::Duration;

use futures_util::TryStreamExt;
use netlink_bindings::nftables::{Chained, Nfgenmsg, OpGetruleDump, OpGettableDump, Request};
use netlink_bindings::traits::{NetlinkChained, NetlinkRequest, Protocol};
use nix::sched::{CloneFlags, setns, unshare};
use podbox_netns::{AddressPool, Attachment, Bridge, BridgeConfig, IpNetwork, Owner};
use rtnetlink::packet_core::{NLM_F_DUMP, NLM_F_REQUEST};
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use rtnetlink::sys::{Socket, SocketAddr as NetlinkAddr};
use rtnetlink::{Handle, LinkIfb, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

/// Nothing here takes long; this is for a machine under load.
const DEADLINE: Duration = Duration::from_secs(10);

/// Runs a test on a thread in a network namespace of its own.
pub fn on_node<F: AsyncFnOnce(Node) + Send + 'static>(test: F) {
    let node = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("tests run as root");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let node = Node { rtnl: connect() };
            node.up("lo").await;
            test(node).await;
        });
    });
    if let Err(panic) = node.join() {
        std::panic::resume_unwind(panic);
    }
}

fn connect() -> Handle {
    let (connection, handle, _) = rtnetlink::new_connection().unwrap();
    tokio::spawn(connection);
    handle
}

/// A network namespace without a process.
pub struct Netns(OwnedFd);

impl Netns {
    pub fn new() -> Self {
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            OwnedFd::from(File::open("/proc/thread-self/ns/net").unwrap())
        });
        Self(made.join().unwrap())
    }

    pub fn fd(&self) -> OwnedFd {
        self.0.try_clone().unwrap()
    }

    /// Runs something on a thread inside.
    pub fn run<T: Send + 'static>(&self, inside: impl FnOnce() -> T + Send + 'static) -> T {
        self.start(inside).join().unwrap()
    }

    pub fn start<T: Send + 'static>(&self, inside: impl FnOnce() -> T + Send + 'static) -> thread::JoinHandle<T> {
        let netns = self.fd();
        thread::spawn(move || {
            setns(netns, CloneFlags::CLONE_NEWNET).unwrap();
            inside()
        })
    }

    /// Asks the kernel inside.
    pub fn ask<T: Send + 'static>(&self, question: impl AsyncFnOnce(Node) -> T + Send + 'static) -> T {
        self.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move { question(Node { rtnl: connect() }).await })
        })
    }

    /// Accepts one connection on any port of `address`; the answer is the caller's address as seen here.
    pub fn listen(&self, address: IpAddr) -> (SocketAddr, thread::JoinHandle<IpAddr>) {
        let listener = self.run(move || TcpListener::bind((address, 0)).unwrap());
        let target = listener.local_addr().unwrap();
        let accepted = self.start(move || {
            let (mut stream, caller) = listener.accept().unwrap();
            stream.write_all(b"pong").unwrap();
            caller.ip()
        });
        (target, accepted)
    }

    /// Connects once, without a second try, and reads the answer.
    pub fn call(&self, target: SocketAddr) -> std::io::Result<()> {
        self.run(move || call(target))
    }

    pub fn sysctl(&self, path: &'static str) -> String {
        self.run(move || std::fs::read_to_string(path).unwrap().trim().to_owned())
    }
}

/// Connects from the calling thread's namespace.
pub fn call(target: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&target, DEADLINE)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    assert_eq!(answer, "pong");
    Ok(())
}

/// A namespace to ask questions about.
pub struct Node {
    pub rtnl: Handle,
}

impl Node {
    pub async fn links(&self) -> Vec<LinkMessage> {
        self.rtnl.link().get().execute().try_collect().await.unwrap()
    }

    pub async fn link_names(&self) -> Vec<String> {
        self.links().await.iter().map(name).collect()
    }

    pub async fn link(&self, wanted: &str) -> Option<LinkMessage> {
        self.links().await.into_iter().find(|link| name(link) == wanted)
    }

    pub async fn index(&self, name: &str) -> u32 {
        self.link(name).await.unwrap_or_else(|| panic!("no link {name}")).header.index
    }

    pub async fn up(&self, name: &str) {
        let index = self.index(name).await;
        self.rtnl.link().change(LinkUnspec::new_with_index(index).up().build()).execute().await.unwrap();
    }

    pub async fn add_address(&self, link: &str, address: &str) {
        let address: IpNetwork = address.parse().unwrap();
        let index = self.index(link).await;
        let mut request = self.rtnl.address().add(index, address.ip(), address.prefix());
        if address.is_ipv6() {
            use rtnetlink::packet_route::address::AddressHeaderFlags;
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        }
        request.execute().await.unwrap();
    }

    /// The addresses that somebody has set: link-local ones come by themselves, at any time.
    pub async fn addresses(&self, link: &str) -> Vec<IpNetwork> {
        use rtnetlink::packet_route::address::AddressAttribute;
        let index = self.index(link).await;
        let messages: Vec<_> = self.rtnl.address().get().set_link_index_filter(index).execute().try_collect().await.unwrap();
        let mut found = Vec::new();
        for message in messages {
            for attribute in &message.attributes {
                if let AddressAttribute::Address(ip) = attribute
                    && !matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local())
                {
                    found.push(IpNetwork::new(*ip, message.header.prefix_len).unwrap());
                }
            }
        }
        found.sort();
        found
    }

    /// The IPv4 neighbours that somebody has set.
    pub async fn neighbours(&self, link: &str) -> Vec<IpAddr> {
        let index = self.index(link).await;
        let messages: Vec<_> = self.rtnl.neighbours().get().execute().try_collect().await.unwrap();
        let permanent = |message: &&NeighbourMessage| message.header.state == NeighbourState::Permanent;
        let on_link = messages.iter().filter(|message| message.header.ifindex == index).filter(permanent);
        let addresses = on_link.filter_map(|message| {
            message.attributes.iter().find_map(|attribute| match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => Some(IpAddr::V4(*v4)),
                _ => None,
            })
        });
        addresses.collect()
    }

    /// A link that is nobody's pod.
    pub async fn add_foreign_link(&self, name: &str) {
        self.rtnl.link().add(LinkIfb::new(name).build()).execute().await.unwrap();
    }

    /// A port of the bridge that is nobody's pod.
    pub async fn add_foreign_port(&self, name: &str, bridge: u32) {
        self.rtnl.link().add(LinkIfb::new(name).controller(bridge).build()).execute().await.unwrap();
    }

    pub async fn remove_address(&self, link: &str, address: &str) {
        let index = self.index(link).await;
        let address: IpNetwork = address.parse().unwrap();
        let present: Vec<_> = self.rtnl.address().get().set_link_index_filter(index).execute().try_collect().await.unwrap();
        for message in present {
            let is_it = message.attributes.iter().any(
                |attribute| matches!(attribute, rtnetlink::packet_route::address::AddressAttribute::Address(ip) if *ip == address.ip()),
            );
            if is_it {
                self.rtnl.address().del(message).execute().await.unwrap();
            }
        }
    }

    pub async fn delete(&self, name: &str) {
        let index = self.index(name).await;
        self.rtnl.link().del(index).execute().await.unwrap();
    }

    /// Ties the node to the outside by link `uplink`: 192.0.2.1 and 2001:db8::1 here, .2 and ::2 there, default routes
    /// that way. The outside knows no way back to any pod.
    pub async fn add_uplink(&self, mtu_bytes: u32) -> Netns {
        use rtnetlink::packet_route::link::{InfoData, InfoVeth};
        use std::os::fd::AsRawFd;
        let outside = Netns::new();
        let peer = LinkMessageBuilder::<LinkUnspec>::new().name("eth0").mtu(mtu_bytes).setns_by_fd(outside.0.as_raw_fd());
        let pair = LinkVeth::new("uplink", "eth0").set_info_data(InfoData::Veth(InfoVeth::Peer(peer.build())));
        self.rtnl.link().add(pair.mtu(mtu_bytes).build()).execute().await.unwrap();
        self.up("uplink").await;
        self.add_address("uplink", "192.0.2.1/24").await;
        self.add_address("uplink", "2001:db8::1/64").await;
        outside.ask(async |outside: Node| {
            outside.up("lo").await;
            outside.up("eth0").await;
            outside.add_address("eth0", "192.0.2.2/24").await;
            outside.add_address("eth0", "2001:db8::2/64").await;
        });
        let v4 = RouteMessageBuilder::<std::net::Ipv4Addr>::new().gateway("192.0.2.2".parse().unwrap()).build();
        self.rtnl.route().add(v4).execute().await.unwrap();
        let v6 = RouteMessageBuilder::<std::net::Ipv6Addr>::new().gateway("2001:db8::2".parse().unwrap()).build();
        self.rtnl.route().add(v6).execute().await.unwrap();
        // Both ends must have noticed their carrier before anything is sent: asking for a link makes them.
        assert!(self.link("uplink").await.is_some());
        outside
    }
}

/// `struct nlmsghdr`, in bytes.
const HEADER_BYTES: usize = 16;

/// Names of all nftables tables of the calling thread's namespace, of whatever family.
pub fn nft_tables() -> Vec<String> {
    let request = OpGettableDump::new(Request::new(), &Nfgenmsg::new());
    let tables = nft_dump(&request).into_iter().map(|table| {
        let (_, table) = OpGettableDump::decode_reply(&table);
        table.get_name().unwrap().to_str().unwrap().to_owned()
    });
    tables.collect()
}

/// As `nft delete table` does, of both families.
pub fn delete_nft_tables(name: &str) {
    for family in [2, 10] {
        let mut batch = Chained::new(1);
        let mut header = Nfgenmsg::new();
        header.set_res_id(10); // NFNL_SUBSYS_NFTABLES
        batch.request().op_batch_begin_do(&header);
        let of_family = Nfgenmsg { nfgen_family: family, ..Nfgenmsg::new() };
        batch.request().op_deltable_do(&of_family).encode().push_name(&CString::new(name).unwrap());
        batch.request().op_batch_end_do(&header);
        let batch = batch.finalize();
        let mut socket = Socket::new(12).unwrap(); // NETLINK_NETFILTER
        socket.bind_auto().unwrap();
        socket.send_to(batch.payload(), &NetlinkAddr::new(0, 0), 0).unwrap();
    }
}

/// How many nftables rules there are.
pub fn nft_rules() -> usize {
    nft_dump(&OpGetruleDump::new(Request::new(), &Nfgenmsg::new())).len()
}

fn nft_dump(request: &impl NetlinkRequest) -> Vec<Vec<u8>> {
    let Protocol::Raw { protonum, request_type } = request.protocol() else { unreachable!() };
    let length = u32::try_from(HEADER_BYTES + request.payload().len()).unwrap();
    let flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut message = [&length.to_ne_bytes()[..], &request_type.to_ne_bytes(), &flags.to_ne_bytes(), &[0; 8]].concat();
    message.extend(request.payload());
    let mut socket = Socket::new(isize::try_from(protonum).unwrap()).unwrap();
    socket.bind_auto().unwrap();
    socket.send_to(&message, &NetlinkAddr::new(0, 0), 0).unwrap();
    let mut answers = Vec::new();
    loop {
        let (datagram, _) = socket.recv_from_full().unwrap();
        let mut rest = datagram.as_slice();
        while rest.len() >= HEADER_BYTES {
            let length = u32::from_ne_bytes(rest[..4].try_into().unwrap()) as usize;
            match u16::from_ne_bytes(rest[4..6].try_into().unwrap()) {
                2 => panic!("the dump was refused"), // NLMSG_ERROR
                3 => return answers,                 // NLMSG_DONE
                _ => answers.push(rest[HEADER_BYTES..length].to_vec()),
            }
            rest = &rest[length.next_multiple_of(4).min(rest.len())..];
        }
    }
}

pub fn name(link: &LinkMessage) -> String {
    let name = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    });
    name.unwrap()
}

pub fn alias(link: &LinkMessage) -> Option<String> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfAlias(alias) => Some(alias.clone()),
        _ => None,
    })
}

pub fn mac(link: &LinkMessage) -> Vec<u8> {
    let mac = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Address(mac) => Some(mac.clone()),
        _ => None,
    });
    mac.unwrap()
}

pub fn mtu(link: &LinkMessage) -> u32 {
    let mtu = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Mtu(mtu) => Some(*mtu),
        _ => None,
    });
    mtu.unwrap()
}

/// A configuration as most tests want it.
pub fn config(name: &str, subnets: &[&str]) -> BridgeConfig {
    BridgeConfig { name: name.to_owned(), subnets: subnets.iter().map(|subnet| subnet.parse().unwrap()).collect() }
}

/// An id as the daemon makes them: 64 hexadecimal digits, different from the start.
pub fn id(number: u64) -> String {
    format!("{:016x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15)).repeat(4)
}

/// A pod on a bridge.
pub struct Pod {
    pub id: String,
    pub netns: Netns,
    pub attachment: Attachment,
}

impl Pod {
    pub async fn attach(bridge: &Bridge, pool: &mut AddressPool, number: u64) -> Self {
        let (id, netns) = (id(number), Netns::new());
        let addresses = pool.reserve(&Owner::new(&id)).unwrap();
        let attachment = bridge.attach(&id, netns.fd(), &addresses).await.unwrap();
        Self { id, netns, attachment }
    }

    pub async fn detach(&self, bridge: &Bridge) {
        bridge.detach(&self.id, Some(&self.attachment.addresses)).await.unwrap();
    }

    pub fn ips(&self) -> Vec<IpAddr> {
        self.attachment.addresses.as_slice().iter().map(IpNetwork::ip).collect()
    }
}
