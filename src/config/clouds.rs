//! Keys of the backends that are known but not available in this version: read and checked, so that a
//! file of the Python original is accepted, and reported as not available by `serve` and `check`.

use actors::model::secret::Secret;

use super::read::{Texts, keys};
use super::types::{FilePath, Whole};
use super::words::words;

words! {
    /// Type of a Google disk.
    pub(super) enum GoogleDisk {
        /// SSD.
        Ssd = "pd-ssd",
        /// Standard.
        Standard = "pd-standard",
    }
    /// How vSphere provisions a disk.
    pub(super) enum Provisioning {
        /// As needed.
        Thin = "thin",
        /// At once.
        Thick = "thick",
    }
    /// Whether a machine can see its tags.
    pub(super) enum TagsInMetadata {
        /// It cannot.
        Disabled = "disabled",
        /// It can.
        Enabled = "enabled",
    }
}

keys! {
    /// How to reach AWS.
    struct AwsConfig {
        /// AWS region.
        optional region: String = "us-west-2",
    }
}
keys! {
    /// What the EC2 instances are like.
    struct AwsInstance {
        /// AMI.
        optional image: String = "ami-0735c191cf914754d",
        /// Instance type.
        optional instance_type: String = "t3.micro",
        /// Subnet.
        required subnet_id: String,
        /// Security groups.
        optional security_group_ids: Vec<String> = "[]",
        /// Instances of one launch, at most.
        optional max_count: Whole<1, 1_000> = "1",
        /// Instances of one launch, at least.
        optional min_count: Whole<1, 1_000> = "1",
        /// User data.
        optional user_data: String = "''",
        /// Tags of the instance.
        optional tags: Texts = "{}",
        /// Type of the root volume.
        optional volume_type: String = "gp3",
        /// Size of the root volume in GB.
        optional disk_size_gb: Whole<1, 65_536> = "20",
        /// ARN of the IAM instance profile.
        optional iam_instance_profile_arn: String = "''",
        /// Whether the instance can see its tags: disabled or enabled.
        optional instance_metadata_tags: TagsInMetadata = "disabled",
        /// Path of the startup script.
        optional startup_script: FilePath,
        /// Red Hat user name given to the instance.
        optional redhat_username: String,
        /// Red Hat password given to the instance.
        optional redhat_password: Secret,
    }
}
keys! {
    /// How to reach Google Cloud.
    struct GcloudConfig {
        /// Project.
        required project_id: String,
        /// Zone.
        required zone: String,
        /// Region.
        optional region: String = "europe-west1",
        /// Service account of the instances.
        optional service_account_email: String = "default",
        /// Path of the credentials file.
        optional google_application_credentials: FilePath,
    }
}
keys! {
    /// What the Google Cloud instances are like.
    struct GcloudInstance {
        /// Family of the image.
        optional image_family: String = "ubuntu-2004-lts",
        /// Project of the image.
        optional image_project: String = "ubuntu-os-cloud",
        /// Image; wins over its family.
        optional image: String,
        /// Machine type.
        optional machine_type: String = "e2-small",
        /// Subnetwork.
        optional subnetwork: String = "default",
        /// Whether virtual machines can run in the instance.
        optional enable_nested_virtualization: bool = "true",
        /// Whether the instance has an external address.
        optional enable_external_ip: bool = "true",
        /// Whether the instance is a spot instance.
        optional spot: bool = "false",
        /// Size of the disk in GB.
        optional disk_size_gb: Whole<1, 65_536> = "20",
        /// Type of the disk: pd-ssd or pd-standard.
        optional disk_type: GoogleDisk = "pd-ssd",
        /// Labels of the instance.
        optional labels: Texts = "{}",
        /// Path of the startup script.
        optional startup_script: FilePath,
        /// Red Hat user name given to the instance.
        optional redhat_username: String,
        /// Red Hat password given to the instance.
        optional redhat_password: Secret,
    }
}
keys! {
    /// How to reach OpenStack.
    struct OpenstackConfig {
        /// Name of the cloud in clouds.yaml.
        optional cloud: String = "''",
        /// Region.
        optional region_name: String = "''",
    }
}
keys! {
    /// What the OpenStack servers are like.
    struct OpenstackInstance {
        /// Image.
        optional image: String = "''",
        /// Flavor.
        optional flavor: String = "''",
        /// Size of the volume in GB.
        optional volume_size: Whole<1, 65_536> = "20",
        /// Network.
        optional network: String = "''",
        /// Metadata of the server.
        optional meta: Texts = "{}",
        /// Path of the startup script.
        optional startup_script: FilePath,
        /// Red Hat user name given to the instance.
        optional redhat_username: String,
        /// Red Hat password given to the instance.
        optional redhat_password: Secret,
    }
}
keys! {
    /// How to reach Scaleway.
    struct ScalewayConfig {
        /// Access key; default: environment variable SCW_ACCESS_KEY.
        optional access_key: Secret,
        /// Secret key; default: environment variable SCW_SECRET_KEY.
        optional secret_key: Secret,
        /// Project; default: environment variable SCW_DEFAULT_PROJECT_ID.
        optional project_id: String,
        /// Region; default: environment variable SCW_DEFAULT_REGION, else fr-par.
        optional region: String,
    }
}
keys! {
    /// What the Scaleway instances are like.
    struct ScalewayInstance {
        /// Commercial type.
        optional commercial_type: String = "DEV1-M",
        /// Image.
        optional image: String = "ubuntu_noble",
        /// Zone.
        optional zone: String = "fr-par-1",
        /// Security group.
        optional security_group: String,
        /// Placement group.
        optional placement_group: String,
        /// Path of the startup script.
        optional startup_script: FilePath,
        /// Red Hat user name given to the instance.
        optional redhat_username: String,
        /// Red Hat password given to the instance.
        optional redhat_password: Secret,
    }
}
keys! {
    /// How to reach vSphere.
    struct VsphereConfig {
        /// Host name of the vCenter server.
        required server: String,
        /// User name.
        required username: String,
        /// Password.
        required password: Secret,
        /// Whether the server's certificate is verified.
        optional verify_ssl: bool = "false",
    }
}
keys! {
    /// What the vSphere machines are like.
    struct VsphereInstance {
        /// How disks are provisioned: thin or thick.
        optional disk_provisioning: Provisioning = "thin",
        /// Datacenter.
        required datacenter: String,
        /// Datastore.
        required datastore: String,
        /// Content library.
        required library: String,
        /// Item of the library.
        required library_item: String,
        /// Path of the startup script.
        optional startup_script: FilePath,
        /// Red Hat user name given to the instance.
        optional redhat_username: String,
        /// Red Hat password given to the instance.
        optional redhat_password: Secret,
    }
}
